"""What commands print for programs and pipes, and how they end."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from nightbid.cli.app import app
from nightbid.config.pipeline import PipelineSpec
from nightbid.errors import EXIT_CODES, NightbidError
from nightbid.night.attempts import StageRecord
from nightbid.night.champion import ChampionPointer
from nightbid.night.record import RunRecord
from nightbid.storage.workspace import Workspace
from typer.testing import CliRunner

NIGHT = dt.date(2026, 1, 8)
SAID = "rows_vs_usual is 0.4, expected 0.5 to 2, and more is said here than fits eighty columns"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A pipeline `p` with one stopped run and a champion."""
    pipelines = tmp_path / "pipelines"
    pipelines.mkdir()
    (pipelines / "p.yaml").write_text(
        "pipeline: p\ndescription: 'of [/home] top'\nfeatures: {a: vocabulary}\n"
    )
    monkeypatch.setenv("NIGHTBID_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.setenv("NIGHTBID_PIPELINES", str(pipelines))
    monkeypatch.setenv("NIGHTBID_CACHE", str(tmp_path / "cache"))
    workspace = Workspace(str(tmp_path / "workspace"))
    spec = PipelineSpec.model_validate({"pipeline": "p", "features": {"a": {"column": "a"}}})
    run = RunRecord.start(workspace, spec, NIGHT)
    for stage, state in (("sample", "done"), ("evaluate", "stopped")):
        started = dt.datetime(2026, 1, 9, tzinfo=dt.UTC)
        run.record(StageRecord(stage=stage, state=state, started=started, seconds=9, summary=SAID))
    pointer = ChampionPointer(workspace, "p")
    pointer.promote(
        run_id="p-2026-01-08", night=NIGHT, bundle_uri="stages/x", bundle_digest="b" * 64,
        reason="[/home] better",
    )  # fmt: skip
    return workspace


def printed(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_lists_are_json_for_programs(installed: Workspace) -> None:
    (run,) = json.loads(printed("runs", "p", "--json"))
    assert (run["run_id"], run["state"]) == ("p-2026-01-08", "stopped")
    found = json.loads(printed("champion", "p", "--json"))
    assert [entry["number"] for entry in found["history"]] == [1]
    assert found["paused"] is None
    assert json.loads(printed("pipelines", "--json"))["pipelines"][0]["pipeline"] == "p"
    days = json.loads(printed("window", "p", "--date", "2026-01-08", "--json"))
    assert days["evaluate"] == ["2026-01-08"]
    assert json.loads(printed("features", "p", "--json"))["features"][0]["name"] == "a"


def test_a_table_in_a_pipe_is_as_wide_as_its_text(installed: Workspace) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    # Brackets in values are text, not markup.
    for arguments, text in ((("runs", "p"), SAID), (("champion", "p"), "[/home] better")):
        command = [sys.executable, "-m", "nightbid", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert text in done.stdout


def test_the_exit_code_says_what_went_wrong(installed: Workspace) -> None:
    command = [sys.executable, "-m", "nightbid", "runs", "nope"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert printed("--version").startswith("nightbid ")
    assert all(str(code) in printed("--help") for code in EXIT_CODES)
    # Other modules have kinds of their own, which no command ends with.
    kinds = [
        kind for kind in NightbidError.__subclasses__() if kind.__module__ == "nightbid.errors"
    ]
    assert all(kind.exit_code in EXIT_CODES for kind in kinds if kind.__name__ != "TrialPruned")
