"""Each stage is killed with kill -9, and the rerun gives the result of an undisturbed night."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from nightbid.night.record import runs_of
from nightbid.night.stages import NIGHT
from nightbid.storage.workspace import Workspace
from nights import Shell

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


NIGHT_OF = ("run", "small", "--date", "2026-01-04")
LONG = {"sample", "featurize", "train", "evaluate", "export", "load_test"}
"""Stages that do not end before the signal arrives, as promotion and some gates do."""


def digests(workspace: Path) -> dict[str, str]:
    run = runs_of(Workspace(str(workspace)), "small")[0]
    assert run.run_id == "small-2026-01-04"
    by_stage = {}
    for stage in NIGHT:
        record = run.stage(stage.name)
        assert record is not None, stage.name
        assert record.state == "done", stage.name
        text = (run.workspace.at(record.uri) / "manifest.json").read_text()
        by_stage[stage.name] = json.loads(text)["digest"]
    # These record measurements: load tests differ in time, and the night's cost includes the
    # spend of a killed attempt.
    for name in ("gate_serving", "gate_cost"):
        del by_stage[name]
    return by_stage


def is_killed(shell: Shell, folder: Path) -> bool:
    """Start the night, kill it while it writes the output of a stage; return whether it did."""
    before = set(folder.glob(".tmp-*"))
    process = shell.start(*NIGHT_OF)
    is_hit = False
    while process.poll() is None:
        if set(folder.glob(".tmp-*")) - before:
            time.sleep(0.05)  # until a part of the output exists
            process.kill()
            process.wait()
            is_hit = bool(set(folder.glob(".tmp-*")) - before)
        elif list(folder.glob("[!.]*/manifest.json")):
            process.kill()  # ended between two polls; the next stages must be killed, too
        time.sleep(0.005)
    process.communicate()
    for output in folder.glob("[!.]*"):
        assert (output / "manifest.json").exists()
    return is_hit


def test_every_stage_survives_kill_9(shell, two_nights):
    shell.write()
    for stage in NIGHT:
        folder = shell.workspace / "stages" / "small" / stage.name
        # A machine that stops this process for long lets the stage end, which is then made again.
        for attempt in range(10):
            if is_killed(shell, folder) or stage.name not in LONG:
                break
            assert attempt < 9, stage.name
            for output in folder.glob("[!.]*"):
                shutil.rmtree(output)
    code, text = shell.run(*NIGHT_OF)
    assert code == 0, text
    assert digests(shell.workspace) == digests(two_nights / "workspace")
