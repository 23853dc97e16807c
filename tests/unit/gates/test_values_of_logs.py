"""Days on which nothing is wrong, whatever the values look like, pass the raw gate."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from nightbid.config.pipeline import PipelineSpec
from nightbid.gates import row_expectations
from nightbid.gates.day_profiles import Day, Days
from nightbid.gates.judge import judge
from nightbid.gates.measurements import Measurements
from nightbid.gates.raw import measure_days
from nightbid.profile import Profile
from nightbid.profile.rows import RowSample

NEWEST = date(2026, 1, 20)
ROWS = 2000
SPEC = PipelineSpec.model_validate({"pipeline": "t", "features": {"campaign": "vocabulary"}})
IDS = 120_210_000_000_000_000 + np.arange(12) * 10 + 7


def verdicts(columns, *, strays: int = 0) -> dict[str, str]:
    """Judge the newest of four days, by its profile and by its rows."""
    days = []
    for back in range(3, -1, -1):
        day = NEWEST - timedelta(days=back)
        random = np.random.default_rng(day.toordinal())
        time = pd.Timestamp(day) + pd.to_timedelta(random.integers(0, 86_400, ROWS), "s")
        times = time.to_numpy().astype("M8[us]").copy()
        if strays:
            times[: strays if back == 0 else 420] -= np.timedelta64(1, "D")
        table = pa.table(
            {
                "impression_id": random.integers(0, 2**50, ROWS),
                "time": pa.array(times).cast(pa.timestamp("us", "UTC")),
                "user_id": random.integers(0, 900, ROWS),
                "click": (random.random(ROWS) < 0.1).astype("i8"),
                **columns(random),
            }
        )
        table = table.append_column("nb_key", table["impression_id"])
        table = table.append_column("nb_label", table["click"].cast(pa.float32()))
        table = table.append_column("nb_time", table["time"])
        days.append((day, table))
    known = [Day(day, Profile.of(table), {}) for day, table in days]
    window = Days(known, [], [day for day, _ in days])
    measurements: Measurements = measure_days(window, SPEC)
    sample = RowSample().add(days[-1][1]).table
    row_expectations.measure(measurements, sample, window, known[-1], SPEC)
    checks = judge("raw", measurements, SPEC.gates, NEWEST).checks
    return {each.name.split(":")[0]: each.verdict for each in checks}


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64()], ids=str)
@pytest.mark.parametrize("nulls", [0.0, 0.2])
def test_ids_beyond_2_to_the_53_are_known_values(kind, nulls):
    def columns(random):
        ids = pa.array(random.choice(IDS, ROWS), kind, mask=random.random(ROWS) < nulls)
        return {"campaign": ids}

    assert verdicts(columns)["new_values"] == "pass"


def test_neighbouring_large_ids_are_different_values():
    table = pa.table({"id": pa.array([2**60, 2**60 + 1, 2**60 + 2, 5])})
    profile = Profile.of(table).columns["id"]
    assert profile.distinct == 4
    assert set(profile.sample.values) == {2**60, 2**60 + 1, 2**60 + 2, 5}
    assert profile.merge(profile).distinct == 4


def test_decimals_are_known_values():
    def columns(random):
        cents = pa.array(random.choice([50, 100, 250], ROWS)).cast(pa.decimal128(21, 0))
        return {"fee": cents}

    assert verdicts(columns)["new_values"] == "pass"


def test_rows_outside_of_their_day_are_judged_beyond_chance():
    # 429 rows of 2,000 instead of 420, as chance has it in logs of local days.
    assert verdicts(lambda random: {}, strays=429)["outside_day"] == "pass"
