"""Hourly and weekly nights from the shell, from folders of logs."""

from __future__ import annotations

import json

import pytest
from nightbid.night.champion import ChampionPointer
from nightbid.night.record import runs_of
from nightbid.storage.workspace import Workspace
from nights import TREES

pytestmark = pytest.mark.slow


def test_hourly_nights_reuse_hours_and_name_a_missing_hour(shell, tmp_path):
    shell.write(source={"kind": "simulator", "rows_per_day": 9_600, "partition": "hour"},
                window={"train_hours": 8, "validate_hours": 3, "evaluate_hours": 3})  # fmt: skip
    logs = tmp_path / "logs"
    code, output = shell.run(
        "data", "write", "small", "--to", str(logs), "--date", "2026-01-02T16", "--days", "15"
    )
    assert code == 0, output
    assert (logs / "dt=2026-01-03T06").is_dir()
    shell.write(source={"kind": "parquet", "folder": str(logs), "partition": "hour",
                        "outcomes": ["bid", "win_price", "click_time", "conversion",
                                     "conversion_time"]},
                window={"train_hours": 8, "validate_hours": 3, "evaluate_hours": 3},
                features={"device_type": "vocabulary", "user_ctr": {
                    "transform": "target_rate", "columns": ["user_id"]},
                    "hour_of_day": {"transform": "hour", "column": "time"}},
                columns={}, schedule="@hourly", model=TREES, baseline=TREES)  # fmt: skip
    code, output = shell.run("run", "small", "--date", "2026-01-03T05", "--nights", "2")
    assert code == 0, output
    assert "14 hours, all new" in output
    assert "14 hours, 13 reused, made 2026-01-03T06 (new)" in output
    workspace = Workspace(str(shell.workspace))
    assert [run.run_id for run in runs_of(workspace, "small")] == [
        "small-2026-01-03T05", "small-2026-01-03T06",
    ]  # fmt: skip
    history = ChampionPointer(workspace, "small").history()
    assert [str(entry.night) for entry in history] == ["2026-01-03T05", "2026-01-03T06"]
    code, output = shell.run("window", "small", "--date", "2026-01-03T06", "--json")
    window = json.loads(output)
    assert window["evaluate"] == ["2026-01-03T04", "2026-01-03T05", "2026-01-03T06"]
    assert len(window["train"]) == 8
    # The error names a missing hour as an hour.
    for path in (logs / "dt=2026-01-02T20").iterdir():
        path.unlink()
    (logs / "dt=2026-01-02T20").rmdir()
    code, output = shell.run("run", "small", "--date", "2026-01-03T06", "--run-id", "again")
    assert code == 3, output
    assert "1 of 14 hours is missing: 2026-01-02T20" in " ".join(output.split())
    code, output = shell.run("data", "days", "small")
    assert "14 hours, 2026-01-02T16 to 2026-01-03T06; 1 missing in between: 2026-01-02T20" in output


def test_weekly_nights_read_daily_folders(shell, tmp_path):
    shell.write(source={"kind": "simulator", "rows_per_day": 300})
    logs = tmp_path / "logs"
    code, output = shell.run(
        "data", "write", "small", "--to", str(logs), "--date", "2026-01-05", "--days", "28"
    )
    assert code == 0, output
    shell.write(source={"kind": "parquet", "folder": str(logs), "partition": "week",
                        "outcomes": ["bid", "win_price", "click_time", "conversion",
                                     "conversion_time"]},
                window={"train_weeks": 1, "validate_weeks": 1, "evaluate_weeks": 1},
                schedule="0 3 * * 1", model=TREES, baseline=TREES)  # fmt: skip
    # Any day of a week identifies its night.
    weeks = ("run", "small", "--date", "2026-01-23", "--nights", "2")
    code, output = shell.run(*weeks, "--until", "sample")
    assert code == 0, output
    assert "3 weeks, 2 reused, made 2026-01-26 (new)" in output
    code, output = shell.run("run", "small", "--date", "2026-01-27")
    assert code == 0, output
    assert "promoted as champion #1" in output
    workspace = Workspace(str(shell.workspace))
    assert [str(run.date) for run in runs_of(workspace, "small")] == ["2026-01-19", "2026-01-26"]
