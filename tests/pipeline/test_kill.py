"""Each stage is killed with kill -9, and the rerun gives the result of an undisturbed night."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from nightbid.night.record import runs_of
from nightbid.night.stages import NIGHT
from nightbid.storage.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


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


def test_every_stage_survives_kill_9(shell, two_nights):
    night = ("run", "small", "--date", "2026-01-04")
    shell.write()
    hit = []
    for stage in NIGHT:
        folder = shell.workspace / "stages" / "small" / stage.name
        before = set(folder.glob(".tmp-*"))
        process = shell.start(*night)
        while process.poll() is None:
            if set(folder.glob(".tmp-*")) - before:
                time.sleep(0.05)  # until a part of the output exists
                process.kill()
                process.wait()
                if set(folder.glob(".tmp-*")) - before:
                    hit.append(stage.name)
            elif list(folder.glob("[!.]*/manifest.json")):
                process.kill()  # ended between two polls; the next stages must be killed, too
            time.sleep(0.005)
        process.communicate()
        for output in folder.glob("[!.]*"):
            assert (output / "manifest.json").exists()
    # Promotion and some gates end before the signal arrives; long stages do not.
    assert {"sample", "featurize", "train", "evaluate", "export", "load_test"} <= set(hit)
    code, text = shell.run(*night)
    assert code == 0, text
    assert digests(shell.workspace) == digests(two_nights / "workspace")
