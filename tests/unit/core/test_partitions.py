"""Tests days, hours and weeks of logs: their names, their order and the window's lengths."""

from __future__ import annotations

import datetime as dt
import json
import pickle
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nightbid.cli.incremental import app as incremental
from nightbid.config.load import parse_pipeline
from nightbid.config.pipeline import Night, PipelineSpec
from nightbid.errors import ConfigError
from nightbid.night.incremental import undone
from nightbid.partitions import (
    STEPS,
    WEEKDAYS,
    HourPartition,
    containing,
    end_of,
    first_hour,
    hours_in,
    partition_of,
)
from nightbid.storage.workspace import Workspace
from typer.testing import CliRunner

DAYS = st.dates(dt.date(1990, 1, 1), dt.date(2090, 1, 1))
HOURS = st.builds(HourPartition.of, DAYS, st.integers(0, 23))


def spec_of(text: str) -> PipelineSpec:
    return parse_pipeline(f"pipeline: p\nfeatures: {{ad_id: vocabulary}}\n{text}\n", "p.yaml")


@given(st.one_of(DAYS, HOURS))
def test_a_partition_survives_formatting_parsing_and_pickling(partition):
    assert partition_of(str(partition)) == partition
    assert partition_of(partition.isoformat()) == partition
    assert f"{partition}" == str(partition)
    assert pickle.loads(pickle.dumps(partition)) == partition


@pytest.mark.parametrize(
    "text", ["2026-01-05T3", "2026-01-05T24", "2026-01-05 03", "5 January", ""]
)
def test_malformed_dates_are_rejected(text):
    with pytest.raises(ValueError, match="write YYYY-MM-DD, or YYYY-MM-DDTHH"):
        partition_of(text)


@given(st.lists(st.one_of(DAYS, HOURS), max_size=20))
def test_days_sort_before_their_hours(partitions):
    def place(each: dt.date) -> tuple[dt.date, int]:
        return (each.date(), each.hour) if isinstance(each, HourPartition) else (each, -1)

    assert sorted(partitions) == sorted(partitions, key=place)
    for one in partitions[:4]:
        for other in partitions[:4]:
            assert (one < other) == (place(one) < place(other))
            assert (one >= other) == (place(one) >= place(other))
            assert (one == other) == (place(one) == place(other))


@given(DAYS, st.sampled_from(WEEKDAYS))
def test_each_day_belongs_to_one_week(day, begins):
    first = containing(day, "week", begins)
    assert first <= day < first + STEPS["week"]
    assert WEEKDAYS[first.weekday()] == begins
    assert containing(first, "week", begins) == first


@given(HOURS)
def test_hours_are_consecutive_across_days(hour):
    later = hour + STEPS["hour"]
    assert isinstance(later, HourPartition)
    assert first_hour(later) == first_hour(hour) + hours_in("hour")
    assert end_of(hour, "hour").timestamp() == first_hour(later) * 3600
    assert containing(hour.date(), "hour") == HourPartition.of(hour.date(), 23)


def test_a_window_is_counted_in_hours_for_hourly_partitions():
    spec = spec_of(
        "source: {kind: simulator, partition: hour}\n"
        "window: {train_hours: 48, validate_hours: 6, evaluate_hours: 6, lag_hours: 1}\n"
        "label: {column: conversion, event_time: conversion_time, attribution_days: 1}"
    )
    night = Night.of(spec, partition_of("2026-01-09T03"))
    # The lag is one hour, and labels are final 24 hours later.
    assert str(night.evaluate[-1]) == "2026-01-08T02"
    assert [len(part) for part in (night.train, night.validate_, night.evaluate)] == [48, 6, 6]
    days = (*night.train, *night.validate_, *night.evaluate)
    assert all(later - day == STEPS["hour"] for day, later in pairwise(days))
    # A day belongs to the night of its last hour.
    assert str(Night.of(spec, dt.date(2026, 1, 9)).date) == "2026-01-09T23"


def test_a_window_is_counted_in_weeks_for_weekly_partitions():
    spec = spec_of(
        "source: {kind: simulator, partition: week, week_begins: sunday}\n"
        "window: {train_weeks: 3, validate_weeks: 1, evaluate_weeks: 1}"
    )
    night = Night.of(spec, dt.date(2026, 2, 10))
    assert [str(day) for day in (*night.train, *night.validate_, *night.evaluate)] == [
        "2026-01-11", "2026-01-18", "2026-01-25", "2026-02-01", "2026-02-08",
    ]  # fmt: skip
    now = dt.datetime(2026, 2, 15, 3, 0, tzinfo=dt.UTC)
    assert spec.newest_complete(now) == dt.date(2026, 2, 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("window: {train_hours: 5}", "window counts hours, and source.partition is 'day'"),
        ("source: {kind: simulator, partition: hour}", "write window.train_hours"),
        (
            "source: {kind: simulator, partition: hour}\nwindow: {train_days: 5}",
            "window counts days, and source.partition is 'hour'; write window.train_hours",
        ),
        ("window: {train_hours: 5, lag_days: 1}", "use different units"),
        ('schedule: "@hourly"', "runs more than once a day, but a night reads a day of logs"),
        (
            'schedule: "0 3 * * *"\nsource: {kind: simulator, partition: week}\n'
            "window: {train_weeks: 2}",
            "more than once a week, but a night reads a week of logs; write for example '0 3 * *",
        ),
        (
            'schedule: "*/10 * * * *"\nsource: {kind: simulator, partition: hour}\n'
            "window: {train_hours: 2}",
            "more than once an hour",
        ),
        (
            "source: {kind: parquet, folder: x, partition: hour, time_zone: Europe/Berlin}\n"
            "window: {train_hours: 2}",
            "the clocks of Europe/Berlin change twice a year",
        ),
        ("source: {kind: parquet, folder: x, partition: month}", "'day', 'hour' or 'week'"),
        (
            "source: {kind: simulator, partition: hour}\nwindow: {train_hours: 0}",
            "window.train_hours: must be greater than or equal to 1, got 0",
        ),
        (
            "source: {kind: simulator, partition: week}\nwindow: {lag_weeks: 99, train_weeks: a}",
            "window.lag_weeks: must be less than or equal to 60, got 99",
        ),
        (
            "source: {kind: simulator, partition: hour}\nwindow: {train_hour: 5}",
            "unknown key 'window.train_hour', did you mean 'train_hours'?",
        ),
    ],
)
def test_settings_in_units_other_than_the_partition_are_rejected(text, message):
    with pytest.raises(ConfigError) as caught:
        spec_of(text)
    assert message in str(caught.value)


@pytest.mark.parametrize("unit", ["hour", "week"])
def test_window_settings_are_recorded_under_their_original_keys(unit):
    text = f"source: {{kind: simulator, partition: {unit}}}\nwindow: {{train_{unit}s: 9}}"
    spec = spec_of(text)
    written = spec.model_dump(mode="json")
    assert written["window"][f"train_{unit}s"] == 9
    again = PipelineSpec.model_validate(json.loads(json.dumps(written)))
    assert again == spec
    assert again.window.unit == unit


def test_daily_and_hourly_runs_of_one_pipeline_are_listed_together(tmp_path):
    from nightbid.night.record import RunRecord, runs_of

    workspace = Workspace(str(tmp_path))
    by_day = spec_of("")
    by_hour = spec_of("source: {kind: simulator, partition: hour}\nwindow: {train_hours: 9}")
    RunRecord.start(workspace, by_day, dt.date(2026, 1, 9))
    run = RunRecord.start(workspace, by_hour, partition_of("2026-01-09T03"))
    assert run.run_id == "p-2026-01-09T03"
    assert [str(run.date) for run in sorted(runs_of(workspace, "p"), key=lambda r: r.date)] == [
        "2026-01-09", "2026-01-09T03",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="2026-01-09T03 is an hour, but the logs of p"):
        RunRecord.start(workspace, by_day, partition_of("2026-01-09T03"))


@pytest.mark.parametrize(
    ("unit", "typed", "kept"),
    [
        ("day", "2026-01-07", "2026-01-07"),
        ("week", "2026-01-07", "2026-01-05"),
        ("hour", "2026-01-07T03", "2026-01-07T03"),
        ("hour", "2026-01-07", ""),
    ],
)
def test_undo_records_the_partition_of_the_date_or_rejects_it(
    tmp_path, monkeypatch, unit, typed, kept
):
    yaml = f"source: {{kind: simulator, partition: {unit}}}\nwindow: {{train_{unit}s: 9}}\n"
    (tmp_path / "p.yaml").write_text(f"pipeline: p\nfeatures: {{ad_id: vocabulary}}\n{yaml}")
    monkeypatch.setenv("NIGHTBID_PIPELINES", str(tmp_path))
    monkeypatch.setenv("NIGHTBID_WORKSPACE", str(tmp_path / "workspace"))
    done = CliRunner().invoke(incremental, ["undo", "p", typed, "--reason", "bots that day"])
    days = [str(day) for day in undone(Workspace(str(tmp_path / "workspace")), "p")]
    assert days == ([kept] if kept else [])
    if not kept:
        assert isinstance(done.exception, ConfigError)
        assert "2026-01-07 is a day, but p learns hours" in str(done.exception)
