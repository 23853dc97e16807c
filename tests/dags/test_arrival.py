"""A night in Airflow that waits, deferred, for its logs, and the shape of its DAG."""

from __future__ import annotations

import datetime as dt
import threading
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflows import DAGS, run_dag
from emulator.installation import until
from nightbid.config.settings import Settings
from nightbid.config.sources import SimulatorSource
from nightbid.data.simulator.source import SimulatorLogs
from nightbid.data.write import write_day
from nightbid.night.attempts import ARRIVAL
from nightbid.night.record import WAITING, RunRecord, runs_of
from nightbid.storage.workspace import Workspace
from nightbid_airflow.arrival import ArrivalTrigger

TODAY = dt.datetime.now(dt.UTC).date()

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("airflow_database")]


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Write the four newest days; today has no marker."""
    folder = tmp_path / "logs"
    simulator = SimulatorLogs(SimulatorSource(rows_per_day=600, users=100, ads=50))
    for back in range(4):
        day = TODAY - dt.timedelta(days=back)
        write_day(simulator.batches(day), folder, day)
        if back:
            (folder / f"dt={day}" / "_SUCCESS").touch()
    return folder


def waits(pipelines: Any, logs: Path, **arrival: object) -> None:
    pipelines(
        source={"kind": "parquet", "folder": str(logs)},
        columns={},
        features={"device_type": "vocabulary"},
        arrival={"marker": "_SUCCESS", "every_seconds": 1, **arrival},
        # The night stops after the wait, which is all that this test needs.
        gates={"raw": {"rows": {"stop": [1_000_000, None]}}},
    )


def run_night(night: dt.date) -> dict[str, str | None]:
    return run_dag("nightly_small", date=night.isoformat())


def newest_run() -> RunRecord:
    return runs_of(Workspace(Settings().workspace), "small")[-1]


def test_a_night_is_deferred_until_its_day_is_complete(pipelines, logs: Path) -> None:
    waits(pipelines, logs, deadline="23:59")
    seen: list[str] = []

    def waiting() -> list[str]:
        return [path.read_text() for path in Path(Settings().workspace).rglob(WAITING)]

    def arrive() -> None:
        # Wait until the trigger has checked once.
        try:
            seen.extend(until(waiting, 500))
        finally:
            (logs / f"dt={TODAY}" / "_SUCCESS").touch()

    thread = threading.Thread(target=arrive)
    thread.start()
    states = run_night(TODAY)
    thread.join()
    assert states[ARRIVAL] == "success"
    assert states["sample"] == "success"
    assert seen[0].startswith(f"waits for the logs of {TODAY} until ")
    assert newest_run().stage(ARRIVAL).verdict == "pass"


def test_at_the_deadline_a_night_takes_an_older_day_or_stops(pipelines, logs, webhook, monkeypatch):
    address, messages = webhook
    monkeypatch.setenv("NIGHTBID_STOP_WEBHOOK", address)
    night = TODAY - dt.timedelta(days=1)
    (logs / f"dt={night}" / "_SUCCESS").unlink()
    waits(pipelines, logs, deadline="00:00", lag_days=1)
    states = run_night(night)
    # Sampling fails because no logs exist before this day, which proves that it read that day.
    assert states[ARRIVAL] == "success"
    run = newest_run()
    assert run.stage(ARRIVAL).summary.startswith("1 day behind")
    assert run.head.spec["window"]["lag_days"] == 1
    waits(pipelines, logs, deadline="00:00")
    states = run_night(night)
    assert states[ARRIVAL] == "failed"
    assert states["sample"] == "upstream_failed"
    (message,) = [message for message in messages if message["stage"] == ARRIVAL]
    assert "not complete: no file _SUCCESS" in message["text"]
    assert message["serves"] == "nothing: there is no champion yet"


def test_a_night_is_scheduled_on_the_asset_that_the_yaml_names(pipelines, logs: Path) -> None:
    waits(pipelines, logs, asset="s3://logs/impressions")
    bag = DagBag(str(DAGS), bundle_path=DAGS, bundle_name="dags-folder")
    dag = bag.dags["nightly_small"]
    assert "s3://logs/impressions" in repr(dag.timetable.asset_condition)
    assert dag.get_task("sample").upstream_task_ids == {ARRIVAL}


def test_arrival_trigger_survives_serialization() -> None:
    trigger = ArrivalTrigger("w", "small", "r", "c", 5)
    path, arguments = trigger.serialize()
    assert path == f"{ArrivalTrigger.__module__}.ArrivalTrigger"
    assert ArrivalTrigger(**arguments).serialize() == (path, arguments)
