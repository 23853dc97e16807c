"""The name and the logical date of a scheduled or backfilled run give its night."""

from __future__ import annotations

from datetime import timedelta

import pendulum
import pytest
from airflow.exceptions import ParamValidationError
from airflow.serialization.serialized_objects import DagSerialization
from airflow.timetables.base import DataInterval, TimeRestriction
from airflow.utils.types import DagRunType
from nightbid.config.settings import Settings
from nightbid_airflow.request import NightRequest
from nightbid_airflow.timetable import NightTimetable

from .test_nightly import the_dag

pytestmark = pytest.mark.usefixtures("airflow_database")


def day(text: str) -> pendulum.DateTime:
    moment = pendulum.parse(text, tz="UTC")
    assert isinstance(moment, pendulum.DateTime)
    return moment


def dag_with(pipelines, schedule: str, **settings: object):
    """Return the DAG as the scheduler reads it from its database."""
    pipelines(schedule=schedule, **settings)
    return DagSerialization.deserialize_dag(DagSerialization.serialize_dag(the_dag()))


def nights(dag, first: str, last: str) -> list[tuple[str, str]]:
    infos = dag.iter_dagrun_infos_between(day(first), day(last))
    return [(f"{info.logical_date:%Y-%m-%d}", f"{info.run_after:%Y-%m-%d %H:%M}") for info in infos]


def test_backfill_creates_one_run_per_night_of_its_range(pipelines) -> None:
    dag = dag_with(pipelines, "30 2 * * *")
    expected = [
        ("2026-01-08", "2026-01-09 02:30"),
        ("2026-01-09", "2026-01-10 02:30"),
        ("2026-01-10", "2026-01-11 02:30"),
    ]
    assert nights(dag, "2026-01-08", "2026-01-10") == expected
    assert nights(dag, "2026-01-08", "2026-01-10T23:59:59") == expected


def test_weekly_schedule_runs_the_night_before_each_tick(pipelines) -> None:
    # Each Monday tick gives the night of Sunday.
    dag = dag_with(pipelines, "0 3 * * 1")
    assert [night for night, _ in nights(dag, "2026-01-01", "2026-01-20")] == [
        "2026-01-04", "2026-01-11", "2026-01-18",
    ]  # fmt: skip


def simulated(partition: str, **more: str) -> dict[str, object]:
    source = {"kind": "simulator", "rows_per_day": 3000, "partition": partition, **more}
    return {"source": source, "window": {f"train_{partition}s": 3}}


def test_hourly_schedule_runs_the_last_full_hour_before_each_tick(pipelines) -> None:
    dag = dag_with(pipelines, "10 * * * *", **simulated("hour"))
    infos = list(dag.iter_dagrun_infos_between(day("2026-01-08T22"), day("2026-01-09T01")))
    assert [(f"{info.logical_date:%d %H:%M}", f"{info.run_after:%d %H:%M}") for info in infos] == [
        ("08 22:00", "08 23:10"), ("08 23:00", "09 00:10"), ("09 00:00", "09 01:10"),
        ("09 01:00", "09 02:10"),
    ]  # fmt: skip
    interval = infos[0].data_interval
    name = dag.timetable.generate_run_id(
        run_type=DagRunType.SCHEDULED, run_after=infos[0].run_after, data_interval=interval
    )
    assert name == "scheduled__2026-01-08T22"

    class Run:
        run_id = name
        run_after = infos[0].run_after
        data_interval_end = interval.end

    assert str(NightRequest.of("small", Run(), {}).date) == "2026-01-08T22"
    assert str(NightRequest.of("small", Run(), {"date": "2026-01-05T04"}).date) == "2026-01-05T04"


def test_weekly_partitions_run_the_last_full_week_before_each_tick(pipelines) -> None:
    dag = dag_with(pipelines, "0 3 * * 2", **simulated("week", week_begins="sunday"))
    # Each Tuesday tick gives the week that ended on Saturday.
    infos = list(dag.iter_dagrun_infos_between(day("2026-01-01"), day("2026-01-24")))
    assert [f"{info.logical_date:%m-%d} {info.run_after:%m-%d}" for info in infos] == [
        "01-04 01-13", "01-11 01-20", "01-18 01-27",
    ]  # fmt: skip

    class Run:
        run_id = "manual"
        run_after = day("2026-01-15T12:00:00")
        data_interval_end = None

    assert str(NightRequest.of("small", Run(), {}).date) == "2026-01-04"
    assert str(NightRequest.of("small", Run(), {"date": "2026-01-15"}).date) == "2026-01-11"


def test_form_of_an_hourly_pipeline_takes_an_hour_and_train_hours(pipelines) -> None:
    pipelines(**simulated("hour"))
    params = the_dag().params
    params.update({"date": "2026-01-08T04", "train_hours": 12})
    params_given = params.validate()

    class Run:
        run_id = "manual"
        run_after = day("2026-01-15T12:00:00")
        data_interval_end = None

    spec, record = NightRequest.of("small", Run(), params_given).open(Settings())
    assert (spec.window.train_days, spec.window.unit) == (12, "hour")
    assert str(record.date) == "2026-01-08T04"
    with pytest.raises(ParamValidationError):
        params["date"] = "8 January"


def test_run_id_holds_the_night_or_the_time_of_a_manual_run(pipelines) -> None:
    timetable = dag_with(pipelines, "0 3 * * *").timetable
    assert isinstance(timetable, NightTimetable)
    tick = day("2026-01-09T03:00:00")
    interval = timetable.infer_manual_data_interval(run_after=tick)
    name = timetable.generate_run_id
    scheduled = name(run_type=DagRunType.SCHEDULED, run_after=tick, data_interval=interval)
    assert scheduled == "scheduled__2026-01-08"
    backfilled = {
        name(run_type=DagRunType.BACKFILL_JOB, run_after=tick, data_interval=interval)
        for _ in range(3)
    }
    assert len(backfilled) == 3, "a night may be backfilled again"
    assert all(run_id.startswith("backfill__2026-01-08__") for run_id in backfilled)
    by_hand = name(run_type=DagRunType.MANUAL, run_after=tick, data_interval=interval)
    assert by_hand.startswith("manual__2026-01-09T03:00:00")


def test_schedule_continues_after_runs_of_an_older_version(pipelines) -> None:
    timetable = dag_with(pipelines, "0 3 * * *").timetable
    always = TimeRestriction(day("2026-01-01"), None, catchup=True)
    # Their interval was their start time, on the day after the night of January 8.
    for end in ("2026-01-09T03:00:00", "2026-01-09"):
        last = DataInterval.exact(day(end))
        info = timetable.next_dagrun_info(last_automated_data_interval=last, restriction=always)
        assert f"{info.logical_date:%Y-%m-%d %H:%M}" == "2026-01-09 00:00"
        assert info.run_after == day("2026-01-10T03:00:00")


def test_only_the_last_missed_night_runs_without_catchup(pipelines) -> None:
    timetable = dag_with(pipelines, "0 3 * * *").timetable
    rule = TimeRestriction(day("2026-01-01"), None, catchup=False)
    last = DataInterval(day("2026-01-08"), day("2026-01-09"))
    before = pendulum.now("UTC")
    info = timetable.next_dagrun_info(last_automated_data_interval=last, restriction=rule)
    assert before - timedelta(days=1) <= info.run_after <= pendulum.now("UTC")
    assert info.logical_date == info.run_after.start_of("day") - timedelta(days=1)
