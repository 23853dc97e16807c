"""Whole nights on a workspace in a bucket, from the shell: the same artifacts as on a local one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
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
from preloaded import COMMANDS, Command

PIPELINE = """
pipeline: small
source: {kind: simulator, rows_per_day: 2000, users: 300, ads: 300}
columns: {position: position}
window: {train_days: 2}
features:
  ad_id: {min_count: 5}
  device_type: vocabulary
  user_ctr: {transform: target_rate, columns: [user_id]}
train: {epochs: 1, refit: false}
gates:
  overrides:
"""
OVERRIDE = """
    - {gate: %s, check: "*", name: tests, reason: so few rows prove nothing, until: 2099-01-01}"""
NIGHT_OF = "2026-01-04"
MEASURED = {"load_test", "gate_serving", "gate_cost", "promote"}
"""Their output depends on times and costs, so it differs between runs."""

pytestmark = pytest.mark.slow


class Machine:
    """A machine with its own cache and the settings of the test; see preloaded.py for `plain`."""

    def __init__(self, folder: Path, plain: bool = False, **settings: str) -> None:
        self.plain = plain
        (folder / "pipelines").mkdir(parents=True)
        gates = ("raw", "features", "model", "serving")
        text = PIPELINE + "".join(OVERRIDE % gate for gate in gates)
        (folder / "pipelines" / "small.yaml").write_text(text)
        self.environment = {
            **os.environ,
            "NIGHTBID_PIPELINES": str(folder / "pipelines"),
            "NIGHTBID_CACHE": str(folder / "cache"),
            "NIGHTBID_TRACKING": "",
            "COLUMNS": "200",
            "NO_COLOR": "1",
            **settings,
        }
        self.cache = folder / "cache"

    def start(self, *arguments: str) -> subprocess.Popen[str] | Command:
        if not self.plain:
            return COMMANDS.start("run", "small", *arguments, env=self.environment)
        return subprocess.Popen(
            [sys.executable, "-m", "nightbid", "run", "small", *arguments],
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )


def finish(process: subprocess.Popen[str] | Command) -> str:
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


def test_a_night_in_a_bucket_makes_what_a_local_night_makes(
    storage: Storage, emulated: str, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    there = Machine(tmp_path / "there")
    nights = [
        machine.start("--date", NIGHT_OF)
        for machine in (
            there,
            Machine(
                here,
                plain=True,
                NIGHTBID_PROFILE="local",
                NIGHTBID_WORKSPACE=str(here / "workspace"),
            ),
        )
    ]
    printed = [finish(process) for process in nights]
    assert f"report: {emulated}/runs/small/small-{NIGHT_OF}/report.html" in printed[0]
    remote, local = Workspace(emulated), Workspace(str(here / "workspace"))
    actual, expected = outputs(remote, NIGHT_OF), outputs(local, NIGHT_OF)
    assert set(actual) == set(expected) == {stage.name for stage in NIGHT}
    compared = [stage.name for stage in NIGHT if stage.name not in MEASURED]
    assert [stage for stage in compared if actual[stage] != expected[stage]] == []
    champions = [ChampionPointer(workspace, "small").current() for workspace in (remote, local)]
    numbers, bundles = zip(
        *(
            (champion.number, champion.bundle_uri) if champion else (0, "")
            for champion in champions
        ),
        strict=True,
    )
    assert numbers[0] == numbers[1]
    assert bundles[0] == bundles[1]
    assert "<h2" in (remote.root / f"runs/small/small-{NIGHT_OF}/report.html").read_text()

    run_id = f"small-{NIGHT_OF}"
    left = records.own_summary(remote, "small", run_id)
    assert left is not None
    assert json.loads(left)["state"] == records.state(remote, "small", run_id, None)
    (line,) = Summaries(remote, tmp_path / "pages").of("small")
    assert line.promoted == bool(numbers[0])

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
    said_there = finish(
        other.start("--date", NIGHT_OF, "--until", "evaluate", "--set", "evaluate.bootstrap=60")
    )
    assert said_there.count(" s  reused") == 6, said_there
    fetched = {path.parent.parent.name for path in other.cache.rglob("outputs/**/manifest.json")}
    assert {"sample", "featurize", "train", "train_baseline"} <= fetched
