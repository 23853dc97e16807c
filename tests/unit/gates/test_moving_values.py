"""The ages of a few ads change every day: that is no fault, and it hides no fault."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest
from nightbid.config.pipeline import PipelineSpec
from nightbid.gates import column_checks
from nightbid.gates.day_profiles import DayProfile, DayProfiles
from nightbid.gates.judge import judge
from nightbid.gates.measurements import Measurements
from nightbid.profile import Profile

FIRST = date(2026, 1, 5)
DAYS = 8
NEWEST = FIRST + timedelta(days=DAYS - 1)
SPEC = PipelineSpec.model_validate({"pipeline": "t", "features": {"a": {"column": "ad_age"}}})


def window(seed: int, ads: int = 60, rows: int = 1500, change=lambda age, draw: age) -> DayProfiles:
    """Return days of an advertiser with few ads: some ads are new, and their shares vary."""
    draw = np.random.default_rng(seed)
    born = draw.integers(-40, DAYS, ads)
    weight = draw.gamma(0.5, size=ads)
    days = []
    for at in range(DAYS):
        day = FIRST + timedelta(days=at)
        weight = weight * np.exp(draw.normal(0, 0.4, ads))
        shown = np.where(born <= at, weight, 0)
        ad = draw.choice(ads, rows, p=shown / shown.sum())
        age = at - born[ad]
        if day == NEWEST:
            age = change(age, draw)
        table = pa.table(
            {
                "ad_id": [f"ad{number}" for number in ad],
                "user_id": [f"u{number}" for number in draw.integers(0, 400, rows)],
                "ad_age": pa.array(age.astype(np.int32)),
                "format": np.array(["banner", "native", "video"])[ad % 3],
            }
        )
        days.append(DayProfile(day, Profile.of(table, ("user_id", "ad_id")), {}))
    return DayProfiles(days, [], [day.date for day in days])


def stops(days: DayProfiles, *names: str) -> set[str]:
    measurements = Measurements()
    for day in days.window:
        column_checks.measure(measurements, days, day, SPEC)
    judgment = judge("raw", measurements, SPEC.gates, NEWEST)
    return {
        finding.measurement.statistic
        for check in judgment.checks
        for finding in check.findings
        if finding.verdict == "stop" and finding.measurement.subject in (names or ("ad_age",))
    }


@pytest.mark.parametrize("seed", range(12))
def test_clean_ages_of_few_ads_stop_no_night(seed):
    assert stops(window(seed)) == set()


@pytest.mark.parametrize("seed", range(12))
def test_clean_formats_of_few_ads_stop_no_night(seed):
    assert stops(window(seed, ads=40, rows=500), "format", "ad_id", "ad_age") == set()


@pytest.mark.parametrize(
    "fault",
    {
        "in hours": lambda age, draw: age * 24 * 10,
        "unknown as -1": lambda age, draw: np.where(draw.random(len(age)) < 0.3, -1, age),
    }.items(),
    ids=lambda case: case[0],
)
def test_a_faulty_ad_age_stops_the_night(fault):
    assert stops(window(3, change=fault[1]))


def test_a_smaller_age_change_stops_with_many_ads():
    whole = window(5, ads=3000, rows=20_000)
    assert stops(whole) == set()
    stale = window(5, ads=3000, rows=20_000, change=lambda age, draw: age // 3)
    assert "psi:ad_age" in stops(stale)
