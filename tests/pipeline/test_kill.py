"""kill -9 in the middle of every stage; the rerun ends as if nothing had happened."""

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
    (run,) = runs_of(Workspace(str(workspace)), "small")
    by_stage = {}
    for stage in NIGHT:
        record = run.stage(stage.name)
        assert record is not None, stage.name
        assert record.state == "done", stage.name
        text = (run.workspace.at(record.uri) / "manifest.json").read_text()
        by_stage[stage.name] = json.loads(text)["digest"]
    # These tell what was measured: no two load tests take the same time, and what a killed
    # attempt spent is part of the night's cost.
    for name in ("gate_serving", "gate_cost"):
        del by_stage[name]
    return by_stage


def test_every_stage_survives_kill_9(make_shell):
    whole, killed = make_shell("whole", plain=True), make_shell("killed")
    night = ("run", "small", "--date", "2026-01-04")
    for shell in (whole, killed):
        shell.write()
    code, text = whole.run(*night)
    assert code == 0, text
    hit = []
    for stage in NIGHT:
        folder = killed.workspace / "stages" / "small" / stage.name
        before = set(folder.glob(".tmp-*"))
        process = killed.start(*night)
        while process.poll() is None:
            if set(folder.glob(".tmp-*")) - before:
                time.sleep(0.05)  # until some of the output is there
                process.kill()
                process.wait()
                if set(folder.glob(".tmp-*")) - before:
                    hit.append(stage.name)
            elif list(folder.glob("[!.]*/manifest.json")):
                process.kill()  # over between two looks: the stages after it are to be hit, too
            time.sleep(0.005)
        process.communicate()
        for output in folder.glob("[!.]*"):
            assert (output / "manifest.json").exists()
    # Promotion and some gates are over before a signal arrives; the long ones are not.
    assert {"sample", "featurize", "train", "evaluate", "export", "load_test"} <= set(hit)
    code, text = killed.run(*night)
    assert code == 0, text
    assert digests(killed.workspace) == digests(whole.workspace)
