"""Whole nights on a workspace in a bucket, from the shell: the same artifacts as on a local one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from emulator.storage import Storage
from nightbid.cost.ledger import Ledger, total
from nightbid.cost.storage import kept_outputs
from nightbid.night.champion import ChampionPointer
from nightbid.night.manifest import Manifest
from nightbid.night.record import RunRecord
from nightbid.night.stages import NIGHT
from nightbid.report import records
from nightbid.report.summaries import Summaries
from nightbid.storage.workspace import Workspace
from nights import SMALL
from preloaded import COMMANDS

NIGHT_OF = "2026-01-04"
MEASURED = {"load_test", "gate_serving", "gate_cost", "promote"}
"""Their output depends on times and costs, so it differs between runs."""

pytestmark = pytest.mark.slow


class Machine:
    """A machine with its own cache and the settings of the test."""

    def __init__(self, folder: Path) -> None:
        (folder / "pipelines").mkdir(parents=True)
        (folder / "pipelines" / "small.yaml").write_text(yaml.safe_dump(SMALL))
        self.environment = {
            **os.environ,
            "NIGHTBID_PIPELINES": str(folder / "pipelines"),
            "NIGHTBID_CACHE": str(folder / "cache"),
            "NIGHTBID_TRACKING": "",
            "COLUMNS": "200",
            "NO_COLOR": "1",
        }
        self.cache = folder / "cache"

    def run(self, *arguments: str) -> str:
        """Run a night and return the output."""
        process = COMMANDS.start("run", "small", *arguments, env=self.environment)
        try:
            text, _ = process.communicate(timeout=500)
        finally:
            process.kill()
        assert process.returncode == 0, text
        return text


def outputs(workspace: Workspace, night: str) -> dict[str, tuple[str, str]]:
    """Return the address and the digest of each stage's output."""
    by_stage = {}
    for record in RunRecord.load(workspace, "small", f"small-{night}").records():
        path = workspace.at(record.uri) / "manifest.json"
        manifest = Manifest.model_validate_json(path.read_text())
        by_stage[record.stage] = (record.uri, manifest.digest)
    return by_stage


def test_a_night_in_a_bucket_equals_a_local_night(
    storage: Storage, emulated: str, tmp_path: Path, two_nights: Path
) -> None:
    # Another process ran the local night; see `two_nights`.
    printed = Machine(tmp_path / "there").run("--date", NIGHT_OF)
    assert f"report: {emulated}/runs/small/small-{NIGHT_OF}/report.html" in printed
    remote, local = Workspace(emulated), Workspace(str(two_nights / "workspace"))
    actual, expected = outputs(remote, NIGHT_OF), outputs(local, NIGHT_OF)
    assert set(actual) == set(expected) == {stage.name for stage in NIGHT}
    compared = [stage.name for stage in NIGHT if stage.name not in MEASURED]
    assert [stage for stage in compared if actual[stage] != expected[stage]] == []
    first, champion = (
        ChampionPointer(workspace, "small").history()[0] for workspace in (local, remote)
    )
    assert (champion.number, champion.bundle_uri) == (first.number, first.bundle_uri)
    assert ChampionPointer(remote, "small").current() == champion
    assert "<h2" in (remote.root / f"runs/small/small-{NIGHT_OF}/report.html").read_text()

    run_id = f"small-{NIGHT_OF}"
    left = records.own_summary(remote, "small", run_id)
    assert left is not None
    assert json.loads(left)["state"] == records.state(remote, "small", run_id, None)
    (line,) = Summaries(remote, tmp_path / "pages").of("small")
    assert line.promoted

    entries = Ledger(remote).entries(pipeline="small")
    assert {entry.stage for entry in entries} == {stage.name for stage in NIGHT}
    assert {entry.state for entry in entries} == {"done"}
    before = total(entries)
    assert Ledger(remote).compact() > 10
    assert total(Ledger(remote).entries(pipeline="small")) == before
    assert kept_outputs(remote, "small")[0].size_bytes > 0

    # Another machine has only the bucket: it reuses finished stages, and a stage that must be
    # computed again (fewer bootstrap samples) fetches its inputs.
    other = Machine(tmp_path / "other")
    said_there = other.run(
        "--date", NIGHT_OF, "--until", "evaluate", "--set", "evaluate.bootstrap=60"
    )
    assert said_there.count(" s  reused") == 6, said_there
    fetched = {path.parent.parent.name for path in other.cache.rglob("outputs/**/manifest.json")}
    assert {"sample", "featurize", "train", "train_baseline"} <= fetched
