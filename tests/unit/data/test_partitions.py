"""Logs partitioned by hour or week, with any names of folders and files."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nightbid.config.folder_source import FolderSource
from nightbid.config.load import parse_pipeline
from nightbid.config.sources import SimulatorSource
from nightbid.data.folder import FolderLogs
from nightbid.data.source import open_source
from nightbid.data_check.check import check_folder
from nightbid.errors import CorruptDataError
from nightbid.partitions import HourPartition

DAY = dt.date(2026, 1, 5)


def opened(folder, **options) -> FolderLogs:
    return FolderLogs(FolderSource(kind="parquet", folder=str(folder), **options))


def put(folder, name: str, *values: int) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"v": list(values)}), path)


def values(logs, day: dt.date) -> list[int]:
    return [v for batch in logs.batches(day) for v in batch["v"].to_pylist()]


@pytest.mark.parametrize(
    "form",
    [
        "dt=2026-01-05/hour={0:02d}/a.parquet",
        "dt=20260105/hr={0}/a.parquet",
        "dt=2026-01-05-{0:02d}/a.parquet",
        "year=2026/month=1/day=5/hour={0}/a.parquet",
        "2026/01/05/{0:02d}/a.parquet",
        "20260105{0:02d}/a.parquet",
        "2026-01-05T{0:02d}.parquet",
        "logs-2026010{1}{0:02d}.parquet",
    ],
)
def test_hours_are_recognized_by_folder_and_file_names(tmp_path, form):
    for hour in (0, 3, 23):
        put(tmp_path, form.format(hour, 5), hour)
    logs = opened(tmp_path, partition="hour")
    hours = [HourPartition.of(DAY, hour) for hour in (0, 3, 23)]
    assert list(logs.days()) == hours
    assert [values(logs, hour) for hour in hours] == [[0], [3], [23]]
    # Without `partition`, its rows belong to the day.
    assert sorted(values(opened(tmp_path), DAY)) == [0, 3, 23]


def test_a_daily_folder_among_hourly_ones_is_rejected(tmp_path):
    put(tmp_path, "dt=2026-01-05/hour=00/a.parquet", 1)
    put(tmp_path, "dt=2026-01-06/a.parquet", 2)
    with pytest.raises(
        CorruptDataError, match=r"dt=2026-01-06/a.parquet' is not an hour"
    ) as caught:
        opened(tmp_path, partition="hour").days()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "begins"),
    [
        (("week=2026-W02/a.parquet", "week=2026-W03/a.parquet"), "monday"),
        (("logs_2026W02.parquet", "logs_2026W03.parquet"), "monday"),
        (("dt=2026-01-05/a.parquet", "dt=2026-01-12/a.parquet"), "monday"),
        (("dt=2026-01-11/a.parquet", "dt=2026-01-18/a.parquet"), "sunday"),
    ],
)
def test_weeks_are_recognized_by_folder_and_file_names(tmp_path, names, begins):
    for value, name in enumerate(names):
        put(tmp_path, name, value)
    logs = opened(tmp_path, partition="week", week_begins=begins)
    first, second = logs.days()
    assert second - first == dt.timedelta(days=7)
    assert first == (dt.date(2026, 1, 5) if begins == "monday" else dt.date(2026, 1, 11))
    assert [values(logs, first), values(logs, second)] == [[0], [1]]


def test_daily_folders_of_a_week_are_read_together(tmp_path):
    for at in range(9):
        put(tmp_path, f"dt={DAY + dt.timedelta(days=at)}/a.parquet", at)
    logs = opened(tmp_path, partition="week")
    assert values(logs, DAY) == [0, 1, 2, 3, 4, 5, 6]
    assert values(logs, DAY + dt.timedelta(days=7)) == [7, 8]
    before = logs.identity(DAY, lambda path: path.read_bytes().hex())
    put(tmp_path, "dt=2026-01-08/b.parquet", 99)
    again = opened(tmp_path, partition="week")
    assert again.identity(DAY, lambda path: path.read_bytes().hex()) != before


def test_one_file_is_split_by_row_times_into_hours_or_weeks(tmp_path):
    start = dt.datetime(2026, 1, 4, 22, 30, tzinfo=dt.UTC)
    times = [start + dt.timedelta(minutes=50 * at) for at in range(5)] + [None]
    pq.write_table(pa.table({"t": times, "v": range(6)}), tmp_path / "export.parquet")
    hours = opened(tmp_path, partition="hour", day_column="t", time_zone="Asia/Kolkata")
    # 22:30 UTC is 04:00 in Kolkata; a row without a time belongs to the previous row's hour.
    assert {str(hour): values(hours, hour) for hour in hours.days()} == {
        "2026-01-05T04": [0, 1], "2026-01-05T05": [2],
        "2026-01-05T06": [3], "2026-01-05T07": [4, 5],
    }  # fmt: skip
    assert all(type(hour) is HourPartition for hour in hours.days())
    weeks = opened(tmp_path, partition="week", day_column="t")
    assert all(type(week) is dt.date for week in weeks.days())
    assert [(str(week), values(weeks, week)) for week in weeks.days()] == [
        ("2025-12-29", [0, 1]), ("2026-01-05", [2, 3, 4, 5]),
    ]  # fmt: skip


def test_generated_keys_differ_between_hours(tmp_path):
    for hour in range(3):
        put(tmp_path, f"dt={DAY}/hour={hour:02d}/a.parquet", 1, 2)
    logs = opened(tmp_path, partition="hour", make_key="id")
    keys = [key for hour in logs.days() for batch in logs.batches(hour)
            for key in batch["id"].to_pylist()]  # fmt: skip
    assert len(set(keys)) == 6


def test_simulated_hours_and_weeks_contain_the_rows_of_their_days(tmp_path):
    block = {"kind": "simulator", "rows_per_day": 500, "users": 50, "ads": 50}

    def table(partition: str, *names: dt.date) -> pa.Table:
        logs = open_source(SimulatorSource(partition=partition, **block), tmp_path)
        return pa.concat_tables(
            pa.Table.from_batches([batch]) for name in names for batch in logs.batches(name)
        )

    day = table("day", DAY)
    hours = table("hour", *(HourPartition.of(DAY, hour) for hour in range(24)))
    assert hours.sort_by("impression_id") == day.sort_by("impression_id")
    week = table("week", DAY)
    assert week == table("day", *(DAY + dt.timedelta(days=at) for at in range(7)))


def log(folder, name: str) -> None:
    """Write a file of impressions whose columns the check recognizes."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.arange(200)
    pq.write_table(
        pa.table(
            {
                "impression_id": pa.array([f"{name}-{row}" for row in rows]),
                "time": pa.array(np.datetime64("2026-01-05T00:00:00", "us") + rows),
                "user_id": rows % 40,
                "ad_id": rows % 7,
                "click": (rows % 10 == 0).astype(int),
            }
        ),
        path,
    )


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["week=2026-W02", "week=2026-W03", "week=2026-W04"], {"partition": "week"}),
        (["dt=2026-01-05", "dt=2026-01-12", "dt=2026-01-26"], {"partition": "week"}),
        (
            ["dt=2026-01-04", "dt=2026-01-11", "dt=2026-01-18"],
            {"partition": "week", "week_begins": "sunday"},
        ),
        (["dt=2026-01-05", "dt=2026-01-06", "dt=2026-01-13"], {}),
    ],
)
def test_data_check_detects_weekly_partitions(tmp_path, names, expected):
    for name in names:
        log(tmp_path / "logs", f"{name}/a.parquet")
    report = check_folder(str(tmp_path / "logs"), tmp_path / "cache")
    printed = {
        name: report.block[name] for name in ("partition", "week_begins") if name in report.block
    }
    assert printed == expected
    spec = parse_pipeline(report.yaml, "logs.yaml")
    assert spec.window.unit == expected.get("partition", "day")
    assert spec.partition_at(report.days[0]) == report.days[0]


def test_data_check_mentions_hourly_partitions(tmp_path):
    for hour in range(3):
        log(tmp_path / "logs", f"dt={DAY}/hour={hour:02d}/a.parquet")
    report = check_folder(str(tmp_path / "logs"), tmp_path / "cache")
    assert list(report.days) == [DAY]
    assert "source.partition: hour makes one night per hour" in report.yaml
