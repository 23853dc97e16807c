"""A night waits for its newest day, accepts an older one, or stops; late days list their nights."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
import yaml
from emulator.installation import until
from nightbid.alerts.watch import Watch
from nightbid.config.load import find_pipeline
from nightbid.config.pipeline import Night
from nightbid.config.settings import Settings
from nightbid.config.sources import SimulatorSource
from nightbid.data.simulator.source import SimulatorLogs
from nightbid.data.write import write_day
from nightbid.errors import ConfigError
from nightbid.night.attempts import ARRIVAL
from nightbid.night.record import RunRecord, runs_of
from nightbid.report.run_page import sentence
from nightbid.report.run_view import RunView
from nightbid.storage.workspace import Workspace
from preloaded import COMMANDS

NIGHT = dt.date(2026, 1, 5)
PAST, FUTURE = "00:30", "23:59"


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Write 1 to 5 January as Parquet; the last day has no marker."""
    folder = tmp_path / "logs"
    simulator = SimulatorLogs(SimulatorSource(rows_per_day=800, users=100, ads=50))
    for back in range(5):
        day = NIGHT - dt.timedelta(days=back)
        write_day(simulator.batches(day), folder, day)
        if back:
            (folder / f"dt={day}" / "_SUCCESS").touch()
    return folder


@pytest.fixture
def shell(tmp_path: Path, logs: Path):
    """Write the pipeline with an arrival block, and run `nightbid` with it."""
    pipelines = tmp_path / "pipelines"
    pipelines.mkdir()
    paths = {
        "NIGHTBID_WORKSPACE": str(tmp_path / "workspace"),
        "NIGHTBID_PIPELINES": str(pipelines),
        "NIGHTBID_CACHE": str(tmp_path / "cache"),
        "NIGHTBID_TRACKING": "",
    }

    def write(night: dt.date = NIGHT, **arrival: object) -> None:
        tree = {
            "pipeline": "small",
            "source": {"kind": "parquet", "folder": str(logs)},
            "arrival": {"marker": "_SUCCESS", "every_seconds": 1, **arrival},
            "window": {"train_days": 2},
            "features": {"device_type": "vocabulary"},
        }
        (pipelines / "small.yaml").write_text(yaml.safe_dump(tree))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return COMMANDS.run(*arguments, env={**os.environ, **paths})

    run.write = write
    run.settings = Settings(
        workspace=paths["NIGHTBID_WORKSPACE"], pipelines=pipelines, cache=tmp_path / "cache"
    )
    return run


def sample(shell, *more: str) -> subprocess.CompletedProcess[str]:
    return shell("run", "small", "--date", str(NIGHT), "--until", "sample", *more)


def the_run(shell) -> RunRecord:
    return runs_of(Workspace(shell.settings.workspace), "small")[-1]


def test_a_late_day_stops_the_night_and_is_listed_once_it_arrives(shell, logs: Path) -> None:
    shell.write(deadline=PAST)
    done = shell("data", "arrival", "small", "--date", str(NIGHT))
    assert done.returncode == 3
    assert "✗ no file _SUCCESS" in done.stdout
    done = sample(shell)
    assert done.returncode == 3
    assert f"arrival: the logs of {NIGHT} are not complete: no file _SUCCESS" in done.stderr
    run = the_run(shell)
    assert run.stage(ARRIVAL).state == "stopped"
    assert RunView(run).state == "stopped"
    assert "stopped" not in shell("data", "late", "small").stdout
    # The late day arrives.
    (logs / f"dt={NIGHT}" / "_SUCCESS").touch()
    listed = json.loads(shell("data", "late", "small", "--json").stdout)
    assert [(night["night"], night["days"]) for night in listed] == [
        (str(NIGHT), {str(NIGHT): "arrived"})
    ]
    assert sample(shell).returncode == 0
    assert the_run(shell).stage(ARRIVAL).verdict == "pass"
    assert "arrived late or changed" in shell("data", "late", "small").stdout
    # A corrected day lists its night.
    day = NIGHT - dt.timedelta(days=1)
    other = SimulatorLogs(SimulatorSource(rows_per_day=900, users=100, ads=50))
    shutil.rmtree(logs / f"dt={day}")
    write_day(other.batches(day), logs, day)
    (logs / f"dt={day}" / "_SUCCESS").touch()
    printed = shell("data", "late", "small").stdout
    assert f"corrected: {day}" in printed
    assert "nightbid data late small --make" in printed


def test_a_night_runs_on_an_older_day_after_the_deadline_and_reports_it(shell, logs: Path) -> None:
    shell.write(deadline=PAST, lag_days=2)
    done = sample(shell)
    assert done.returncode == 0, done.stderr
    reason = f"1 day behind: the logs of {NIGHT} were not complete by 2026-01-06 00:30 UTC"
    assert reason in done.stdout
    run = the_run(shell)
    assert run.head.overrides == ("window.lag_days=1",)
    days = json.loads(json.dumps(run.head.spec))["window"]["lag_days"]
    assert days == 1
    assert reason in sentence(RunView(run))
    # Once the day is complete, the same command runs the night with it.
    (logs / f"dt={NIGHT}" / "_SUCCESS").touch()
    assert "arrived" in shell("data", "late", "small").stdout
    assert sample(shell).returncode == 0
    run = the_run(shell)
    assert run.head.overrides == ()
    assert not RunView(run).behind


def test_run_wait_continues_once_the_day_is_complete_without_a_stalled_alert(
    shell, logs: Path
) -> None:
    # The night is today's, so its deadline is in the future.
    today = dt.datetime.now(dt.UTC).date()
    for back in range(4):
        day = NIGHT - dt.timedelta(days=back)
        shutil.copytree(logs / f"dt={day}", logs / f"dt={today - dt.timedelta(days=back)}")
    shell.write(deadline=FUTURE)
    early = shell("run", "small", "--date", str(today), "--until", "sample", "--run-id", "early")
    assert early.returncode == 3
    assert "`--wait` waits until" in early.stderr

    ended: list[subprocess.CompletedProcess[str]] = []
    arguments = ("run", "small", "--date", str(today), "--until", "sample", "--wait")
    thread = threading.Thread(target=lambda: ended.append(shell(*arguments)))
    thread.start()
    watch = Watch(shell.settings)
    until(lambda: "waits for the logs" in _live(shell))
    assert "no file _SUCCESS" in _live(shell)
    later = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=7)
    assert [alert.message.kind for alert in watch.look(later)] == []
    (logs / f"dt={today}" / "_SUCCESS").touch()
    thread.join()
    assert ended[0].returncode == 0, ended[0].stderr
    assert f"✓ arrival: {today} is complete: marker _SUCCESS" in ended[0].stdout


def _live(shell) -> str:
    runs = runs_of(Workspace(shell.settings.workspace), "small")
    return RunView(runs[-1]).stage(ARRIVAL).live if runs else ""


def test_arrival_checks_row_count_newest_time_and_unchanged_files(shell, logs: Path) -> None:
    (logs / f"dt={NIGHT}" / "_SUCCESS").touch()
    shell.write(deadline=PAST)
    assert sample(shell).returncode == 0
    shell.write(min_rows_ratio=0.9, newest_time="23:00", settled_minutes=0)
    later = NIGHT + dt.timedelta(days=1)
    half = SimulatorLogs(SimulatorSource(rows_per_day=300, users=100, ads=50))
    write_day(half.batches(later), logs, later)
    (logs / f"dt={later}" / "_SUCCESS").touch()
    printed = shell("data", "arrival", "small", "--date", str(later)).stdout
    assert "at least 90% are required" in printed
    assert "✓ newest row of 23:" in printed
    shell.write(settled_minutes=5)
    printed = shell("data", "arrival", "small", "--date", str(later)).stdout
    assert re.search("✗ files unchanged for [0-4] min, of 5", printed)
    ahead = time.time() + 7200
    os.utime(next((logs / f"dt={later}").glob("*.parquet")), (ahead, ahead))
    printed = shell("data", "arrival", "small", "--date", str(later)).stdout
    assert "✗ files from 2.0 hours in the future: the clock of this machine or of their" in printed


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"deadline": "6 am"}, "'6 am' is not a time of day"),
        ({"newest_time": "25:00"}, "'25:00' is not a time of day"),
        ({"lag": 1}, "unknown key 'arrival.lag'"),
    ],
)
def test_invalid_arrival_settings_are_rejected(
    shell, block: dict[str, object], message: str
) -> None:
    shell.write(**block)
    with pytest.raises(ConfigError, match=message):
        find_pipeline("small", shell.settings.pipelines)


def test_lag_days_shift_the_window(shell) -> None:
    shell.write()
    spec = find_pipeline("small", shell.settings.pipelines, ("window.lag_days=1",))
    assert max(Night.of(spec, NIGHT).evaluate) == NIGHT - dt.timedelta(days=1)
