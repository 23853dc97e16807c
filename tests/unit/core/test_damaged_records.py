"""Every command reports a damaged record in one line that names the file and the fix."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from nightbid.cli import app as cli
from nightbid.cost.ledger import Ledger
from nightbid.errors import CorruptDataError, NightbidError
from nightbid.night.champion import ChampionPointer
from nightbid.night.manifest import Manifest
from nightbid.night.pauses import PromotionPauses
from nightbid.night.record import RunRecord
from nightbid.night.reference import pinned_champion
from nightbid.night.sealed import seal
from nightbid.storage.workspace import read_manifest
from typer.testing import CliRunner

TREE = typer.main.get_command(cli.app)
"""All commands; to make the tree takes longer than most commands."""
COMMANDS = (
    "runs ctr",
    "runs ctr --json",
    "report ctr",
    "compare ctr ctr-a ctr-b",
    "champion ctr",
    "champion ctr --json",
    "champion pause ctr --reason because",
    "rollback ctr --reason because",
    "features ctr",
    "track ctr",
    "watch --once",
    "score ctr rows.parquet --to scores",
    "data frozen",
    "data freeze ctr ctr-b --name again",
    "data prune",
    "gates show ctr ctr-b",
    "gates propose ctr",
    "cost show ctr",
    "cost answers ctr",
    "cost forecast ctr",
    "cost serving ctr --requests-per-second 100",
    "cost storage ctr",
    "cost export ctr costs.csv",
    "cost page ctr costs.html",
    "cost compact",
    "audit ctr",
    "data forget u1",
)
GATE = {"night": "2026-01-20", "verdict": "pass", "summary": "", "checks": [], "findings": []}
KINDS = {
    "gate": "stages/ctr/gate_raw/*/gate.json",
    "run": "runs/ctr/ctr-b/run.json",
    "old run": "runs/ctr/ctr-a/run.json",
    "stage": "runs/ctr/ctr-b/stages/evaluate.*.json",
    "old stage": "runs/ctr/ctr-a/stages/sample.*.json",
    "usage": "runs/ctr/ctr-b/usage/train.1.jsonl",
    "pin": "runs/ctr/ctr-b/champion.json",
    "promotion": "champion/ctr/history/000001.json",
    "pause": "champion/ctr/paused.json",
    "costs": "ledger/entries/ctr/ctr-b/train.1.*.json",
    "old costs": "ledger/compacted/*.parquet",
    "manifest": "stages/ctr/evaluate/*/manifest.json",
    "manifest of the sample": "stages/ctr/sample/*/manifest.json",
    "manifest of the bundle": "stages/ctr/export/*/manifest.json",
    "manifest of the load test": "stages/ctr/load_test/*/manifest.json",
    "evaluation": "stages/ctr/evaluate/*/evaluation.json",
    "frozen": "datasets/*/frozen.json",
}
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda text: text[: len(text) // 2],
    "flipped bit": lambda text: text[: len(text) // 2] + bytes([text[len(text) // 2] ^ 1])
    + text[len(text) // 2 + 1 :],
    "empty": lambda _: b"",
    "not UTF-8": lambda text: text[:9] + b"\xe9\xff" + text[9:],
    "other JSON": lambda _: b"[1, null]",
}  # fmt: skip


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """Return the folder of the workspace that the first test creates and the others copy."""
    return tmp_path_factory.mktemp("kept") / "workspace"


@pytest.fixture
def whole(recorded_run, tmp_path, monkeypatch, kept) -> Path:
    """Return a workspace with at least one record of every kind."""
    folder = tmp_path / "pipelines"
    folder.mkdir()
    (folder / "ctr.yaml").write_text("pipeline: ctr\nfeatures: {platform: vocabulary}\n")
    monkeypatch.setenv("NIGHTBID_PIPELINES", str(folder))
    monkeypatch.setenv("NIGHTBID_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.setenv("NIGHTBID_TRACKING", "")
    monkeypatch.chdir(tmp_path)
    workspace = tmp_path / "workspace"
    if kept.exists():
        shutil.copytree(kept, workspace)
    else:
        fill(recorded_run, workspace)
        shutil.copytree(workspace, kept)
    return workspace


def fill(recorded_run: Callable[[str], RunRecord], folder: Path) -> None:
    """Create at least one record of every kind."""
    from nightbid.sampling.frozen import freeze

    runs = [recorded_run("ctr-a")]
    workspace = runs[0].workspace
    Ledger(workspace).compact()
    runs.append(recorded_run("ctr-b"))
    pointer = ChampionPointer(workspace, "ctr")
    for run in runs:
        pinned_champion(run)
        uri = run.stage("export").uri
        digest = read_manifest(workspace.at(uri)).digest
        pointer.promote(run_id=run.run_id, night=run.date, bundle_uri=uri,
                        bundle_digest=digest, reason="better")  # fmt: skip
    runs[1].usage_file("train", 1).write_text('{"at": 1768960800.0, "done": 0.5}\n')
    for path in folder.glob("stages/ctr/gate_*"):
        for output in path.iterdir():
            (output / "gate.json").write_text(json.dumps(GATE))
    PromotionPauses(workspace, "ctr").start("a look first")
    for path in folder.glob("stages/**/manifest.json"):
        path.write_text(seal(Manifest.model_validate_json(path.read_bytes())))
    freeze(workspace, runs[1], "rows-of-january")


def ended_with(command: str) -> NightbidError | None:
    """Run a command in this process and return the error that ends it, if any."""
    try:
        with CliRunner().isolation():
            TREE(command.split())
    except SystemExit:
        return None
    except NightbidError as error:
        return error
    except Exception as error:
        raise AssertionError(f"nightbid {command}: {type(error).__name__}: {error}") from error
    raise AssertionError(f"nightbid {command}: no exit code")


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_reports_a_damaged_record_in_one_line(whole: Path, command: str) -> None:
    faults = []
    shift = COMMANDS.index(command)
    for at, (kind, pattern) in enumerate(KINDS.items()):
        # The commands together see every damage of every kind.
        name, damage = list(DAMAGES.items())[(at + shift) % len(DAMAGES)]
        paths = sorted(whole.glob(pattern))
        if not paths:
            assert command == "cost compact", kind
            continue
        content = paths[-1].read_bytes()
        paths[-1].write_bytes(damage(content))
        try:
            error = ended_with(command)
        except AssertionError as failure:
            faults.append(f"{kind}, {name}: {failure}")
            continue
        finally:
            paths[-1].write_bytes(content)
        if error is not None and not is_line(error, paths[-1]):
            faults.append(f"{kind}, {name}: {type(error).__name__} {error}")
    assert not faults, "\n" + "\n".join(faults)


def is_line(error: NightbidError, path: Path) -> bool:
    """Return whether an error is one line with a hint and names the file that it is about."""
    is_named = any(part in str(error) for part in (path.name, path.parent.name))
    return (
        "\n" not in str(error)
        and bool(error.hint)
        and (is_named or not isinstance(error, CorruptDataError))
    )
