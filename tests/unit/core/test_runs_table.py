"""Tests the list of runs on a narrow terminal."""

from __future__ import annotations

import datetime as dt
import io
from pathlib import Path

import pytest
from emulator.installation import until
from nightbid.cli.view import runs_table
from nightbid.config.pipeline import PipelineSpec
from nightbid.cost.meter import ProcessMeter
from nightbid.night.attempts import StageRecord
from nightbid.night.record import RunRecord, state_of
from nightbid.storage.workspace import Workspace
from rich.console import Console

NIGHT = dt.date(2026, 1, 8)
SHORT, LONG = "kuairand-2026-01-08", "scheduled__2026-01-08T02_00_00_00_00"


def table_cells(tmp_path: Path, name: str, until: str, *done: tuple[str, str]) -> list[list[str]]:
    """List a run with these stages and states on 80 columns; return the cells of each line."""
    spec = PipelineSpec.model_construct(pipeline="p", features={})
    run = RunRecord.start(Workspace(str(tmp_path)), spec, NIGHT, run_id=name, until=until)
    for minute, (stage, state) in enumerate(done):
        started = dt.datetime(2026, 1, 9, 2, minute, tzinfo=dt.UTC)
        summary = f"{stage} says something that is longer than its column"
        run.record(
            StageRecord(stage=stage, state=state, started=started, seconds=9, summary=summary)
        )
    console = Console(width=80, file=io.StringIO())
    console.print(runs_table([run]))
    lines = console.file.getvalue().splitlines()
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]


@pytest.mark.parametrize(
    ("until", "done", "state"),
    [
        ("", [], "running"),
        ("", [("sample", "done")], "running"),
        ("sample", [("sample", "done")], "done"),
        ("", [("sample", "failed"), ("sample", "done"), ("promote", "done")], "done"),
        ("sample", [("sample", "failed")], "failed"),
        ("", [("sample", "done"), ("gate_raw", "stopped")], "stopped"),
    ],
)
def test_the_table_shows_the_state_of_a_run(tmp_path, until, done, state):
    cells = table_cells(tmp_path, SHORT, until, *done)
    assert "".join(line[2] for line in cells).startswith(state)


def test_an_unfinished_run_shows_what_it_does_now(tmp_path):
    spec = PipelineSpec.model_construct(pipeline="p", features={})
    run = RunRecord.start(Workspace(str(tmp_path)), spec, NIGHT, run_id="p-1")

    def shown() -> str:
        console = Console(width=200, file=io.StringIO())
        console.print(runs_table([run]))
        return console.file.getvalue()

    assert "no stage is running now" in shown()
    sample = run.usage_file("sample", 1)
    with ProcessMeter(sample, every=0.01):
        until(lambda: "sample for" in shown())
        assert "no stage" not in shown()
    run.record(StageRecord(stage="sample", state="done", started=run.head.started, seconds=1))
    assert "no stage is running now" in shown()


def test_a_failed_run_shows_its_error(tmp_path):
    spec = PipelineSpec.model_construct(pipeline="p", features={})
    run = RunRecord.start(Workspace(str(tmp_path)), spec, NIGHT, run_id="p-1")
    started = dt.datetime(2026, 1, 9, 2, tzinfo=dt.UTC)
    error = "/logs: no such folder"
    run.record(StageRecord(stage="sample", state="failed", started=started, seconds=0, error=error))
    console = Console(width=200, file=io.StringIO())
    console.print(runs_table([run]))
    assert error in console.file.getvalue()


def test_a_sweep_trial_is_done_once_it_has_trained(tmp_path):
    spec = PipelineSpec.model_construct(pipeline="p", features={})
    run = RunRecord.start(Workspace(str(tmp_path)), spec, NIGHT, run_id="s-t001", sweep="s")
    for stage in ("sample", "featurize", "train"):
        started = dt.datetime(2026, 1, 9, 2, tzinfo=dt.UTC)
        run.record(StageRecord(stage=stage, state="done", started=started, seconds=9))
    assert state_of(run.head, {record.stage: record for record in run.records()}) == ("done", "")


def test_names_are_not_truncated_on_80_columns(tmp_path):
    ended = [("sample", "done"), ("gate_features", "stopped")]
    for name in (SHORT, LONG):
        cells = table_cells(tmp_path, name, "", *ended)
        whole = ["".join(column) for column in zip(*cells, strict=True)]
        assert whole[0] == name
        assert whole[1] == "2026-01-08"
        assert whole[2].replace(" ", "") == "stoppedatgate_features"
        assert whole[4] == "18"
        assert name == LONG or cells[0][0] == name
