"""The raw gate on hourly logs compares 24 hours at a time."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

import pytest
from nightbid.config.gates import Override
from nightbid.config.load import parse_pipeline
from nightbid.config.pipeline import PipelineSpec
from nightbid.errors import CorruptDataError, GateStopped
from nightbid.gates.day_profiles import DayProfile
from nightbid.gates.rolling_days import rolling_days
from nightbid.night.record import RunRecord
from nightbid.night.stages import NIGHT
from nightbid.partitions import STEPS, HourPartition, partition_of
from nightbid.profile.profile import Profile
from nightbid.runner import run_stage
from nightbid.storage.workspace import Workspace

STAGES = {stage.name: stage for stage in NIGHT}
LAST = "2026-01-04T17"
SPEC = """
pipeline: hourly
source: {kind: simulator, partition: hour, rows_per_day: 6000, users: 300, ads: 100, faults: %s}
window: {train_hours: 42, validate_hours: 3, evaluate_hours: 3}
features: {device_type: vocabulary}
"""


def sampled(folder: Path, faults: str = "[]") -> tuple[PipelineSpec, RunRecord]:
    spec = parse_pipeline(SPEC % faults, "hourly.yaml")
    run = RunRecord.start(Workspace(str(folder / "workspace")), spec, partition_of(LAST))
    run_stage(STAGES["sample"], spec, run, cache_folder=folder / "cache")
    return spec, run


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sample the hours without faults once; nights with faults reuse those of the other days."""
    folder = tmp_path_factory.mktemp("clean")
    sampled(folder)
    return folder


def gate(clean: Path, folder: Path, faults: str = "[]") -> str:
    """Sample and judge a night with faults in a copy of the clean workspace."""
    shutil.copytree(clean, folder, dirs_exist_ok=True)
    shutil.rmtree(folder / "workspace" / "runs")
    spec, run = sampled(folder, faults)
    return run_stage(STAGES["gate_raw"], spec, run, cache_folder=folder / "cache").manifest.summary


def test_clean_hours_pass_the_raw_gate(clean, tmp_path):
    gate(clean, tmp_path)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("labels_zero", r"label_.*"),
        ("nulls:0.5", r"null_excess"),
        ("negative_prices", r"out_of_range"),
    ],
)
def test_a_fault_in_the_newest_hours_stops(clean, tmp_path, fault, message):
    kind, _, amount = fault.partition(":")
    planted = f"['{kind}@2026-01-04{':' + amount if amount else ''}']"
    with pytest.raises(GateStopped, match=message):
        gate(clean, tmp_path, planted)


def test_an_empty_hour_is_reported(clean, tmp_path):
    with pytest.raises(CorruptDataError, match="2026-01-04T14: the hour is empty"):
        gate(clean, tmp_path, "['missing_hour@2026-01-04:14']")


def hours_of(*names: dt.date) -> list[DayProfile]:
    return [DayProfile(name, Profile(1, {}), {"read": 1.0}, unit="hour") for name in names]


def test_rolling_days_are_24_hours_that_end_with_the_newest_hour():
    newest = HourPartition.of(dt.date(2026, 1, 4), 17)
    hours = [newest - back * STEPS["hour"] for back in range(60)]
    days = rolling_days(hours_of(*hours), newest)
    assert [str(day.date) for day in days] == ["2026-01-03T17", "2026-01-04T17"]
    assert [day.profile.rows for day in days] == [24, 24], "twelve hours make no day"
    assert [day.figures["read"] for day in days] == [24, 24]
    assert days[-1].end - days[-1].start == 24
    # An hour without logs is missing from its day.
    without = [hour for hour in hours if hour != newest - 5 * STEPS["hour"]]
    assert [day.profile.rows for day in rolling_days(hours_of(*without), newest)] == [24, 23]
    assert rolling_days(hours_of(*hours[:23]), newest) == []


def test_an_override_applies_to_all_hours_of_its_last_day():
    override = Override(
        gate="raw", check="*", name="ann", reason="a known outage", until=dt.date(2026, 1, 4)
    )
    assert override.holds_on(HourPartition.of(dt.date(2026, 1, 4), 23))
    assert not override.holds_on(HourPartition.of(dt.date(2026, 1, 5), 0))
