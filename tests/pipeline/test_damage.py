"""Files damaged between two stages are detected before use, set aside and made again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from nightbid.night.champion import ChampionPointer
from nightbid.night.record import runs_of
from nightbid.storage.workspace import Workspace

pytestmark = pytest.mark.slow


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(bytes(content))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def test_damaged_outputs_between_stages_are_set_aside_and_rebuilt(shell, two_nights):
    shell.write()
    # The stages until the export are finished; later ones, which read the champion, are not.
    shell.take(two_nights, "stages")
    for name in ("load_test", "gate_serving", "gate_cost", "promote"):
        shutil.rmtree(shell.workspace / "stages" / "small" / name)
    night = ("run", "small", "--date", "2026-01-04")
    code, text = shell.run(*night, "--until", "export")
    assert code == 0, text
    workspace = Workspace(str(shell.workspace))
    (run,) = runs_of(workspace, "small")

    def folder(stage: str) -> Path:
        return Path(str(workspace.at(run.stage(stage).uri)))

    before = {name: json.loads((folder(name) / "manifest.json").read_text())["digest"]
              for name in ("sample", "featurize", "train", "evaluate", "export")}  # fmt: skip
    rows = sorted(folder("featurize").rglob("*.arrow")) or sorted(
        folder("featurize").rglob("*.parquet")
    )
    rows[0].unlink()
    flip(next((folder("train") / "model").rglob("weights*")))
    cut(folder("export") / "model.onnx")
    flip(folder("evaluate") / "manifest.json")
    code, text = shell.run(*night)
    assert code == 0, text
    assert "Traceback" not in text
    assert text.count("set aside") == 4, text
    after = {name: json.loads((folder(name) / "manifest.json").read_text())["digest"]
             for name in before}  # fmt: skip
    assert after == before
    champion = ChampionPointer(workspace, "small").current()
    assert champion is not None
    assert champion.bundle_digest == before["export"]

    # A damaged champion or history is an error of one line in the next night.
    flip(folder("export") / "bundle.json")
    shutil.rmtree(shell.workspace / "stages" / "small" / "evaluate")
    code, text = shell.run("run", "small", "--date", "2026-01-05")
    assert code in (3, 4)
    assert "Traceback" not in text
    assert "bundle.json does not match its digest" in text
    flip(shell.workspace / "champion" / "small" / "history" / "000001.json")
    code, text = shell.run("champion", "small")
    assert code == 3
    assert "Traceback" not in text
    assert "000001.json" in text


def test_a_damaged_run_record_does_not_stop_later_nights(shell, two_nights):
    shell.write()
    shell.take(two_nights, "stages")
    code, text = shell.run("run", "small", "--date", "2026-01-04", "--until", "sample")
    assert code == 0, text
    cut(shell.workspace / "runs" / "small" / "small-2026-01-04" / "run.json")
    code, text = shell.run("run", "small", "--date", "2026-01-05", "--until", "gate_raw")
    assert code == 0, text
    assert "Traceback" not in text
    assert "small-2026-01-04" in text
    code, text = shell.run("runs", "small")
    assert code == 0, text
    assert "small-2026-01-05" in text
