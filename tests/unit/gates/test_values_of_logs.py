"""Days without faults pass the raw gate, whatever their values look like."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from nightbid.config.pipeline import PipelineSpec
from nightbid.gates import row_expectations
from nightbid.gates.day_profiles import DayProfile, DayProfiles
from nightbid.gates.judge import judge
from nightbid.gates.measurements import Measurements
from nightbid.gates.raw import measure_days
from nightbid.profile import Profile
from nightbid.profile.rows import RowSample

NEWEST = date(2026, 1, 20)
ROWS = 2000
SPEC = PipelineSpec.model_validate({"pipeline": "t", "features": {"campaign": "vocabulary"}})
IDS = 120_210_000_000_000_000 + np.arange(12) * 10 + 7


def verdicts(
    columns, *families: str, strays: int = 0, spec: PipelineSpec = SPEC, label: str = "click"
) -> dict[str, str]:
    """Judge some families of the newest of four days by its profile and by its rows."""
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
            }
        )
        for name, column in columns(random, *([table] if spec is not SPEC else [])).items():
            table = table.append_column(name, pa.array(column))
        table = table.append_column("nb_key", table["impression_id"])
        table = table.append_column("nb_label", table[label].cast(pa.float32()))
        table = table.append_column("nb_time", table["time"])
        days.append((day, table))
    known = [DayProfile(day, Profile.of(table), {}) for day, table in days]
    window = DayProfiles(known, [], [day for day, _ in days])
    measurements: Measurements = measure_days(window, spec)
    sample = RowSample().add(days[-1][1]).table
    row_expectations.measure(measurements, sample, window, known[-1], spec)
    mine = Measurements([each for each in measurements if each.family in families])
    checks = judge("raw", mine, spec.gates, NEWEST).checks
    return {check.name.split(":")[0]: check.verdict for check in checks}


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64()], ids=str)
@pytest.mark.parametrize("nulls", [0.0, 0.2])
def test_ids_above_2_to_the_53_are_not_new_values(kind, nulls):
    def columns(random):
        ids = pa.array(random.choice(IDS, ROWS), kind, mask=random.random(ROWS) < nulls)
        return {"campaign": ids}

    assert verdicts(columns, "new_values")["new_values"] == "pass"


def test_adjacent_large_ids_are_distinct_values():
    table = pa.table({"id": pa.array([2**60, 2**60 + 1, 2**60 + 2, 5])})
    profile = Profile.of(table).columns["id"]
    assert profile.distinct == 4
    assert set(profile.sample.values) == {2**60, 2**60 + 1, 2**60 + 2, 5}
    assert profile.merge(profile).distinct == 4


def test_decimals_are_not_new_values():
    def columns(random):
        cents = pa.array(random.choice([50, 100, 250], ROWS)).cast(pa.decimal128(21, 0))
        return {"fee": cents}

    assert verdicts(columns, "new_values")["new_values"] == "pass"


def test_rows_outside_their_day_pass_within_chance():
    # 429 of 2,000 rows instead of 420: normal variation in logs of local days.
    assert verdicts(lambda random: {}, "outside_day", strays=429)["outside_day"] == "pass"


def spec_with_feature(**features) -> PipelineSpec:
    return PipelineSpec.model_validate({"pipeline": "t", "features": features})


def test_features_known_only_after_a_click_stop_on_the_first_days():
    """Every day has the leak, so no other day shows the difference."""

    def columns(random, table):
        click = np.asarray(table["click"]) == 1
        seconds = pd.to_timedelta(random.integers(1, 3000, ROWS), "s")
        later = pd.Series(table["time"].to_pandas() + seconds)
        return {
            "installed_at": later.where(click),
            "dwell": pd.Series(random.normal(size=ROWS)).where(click),
            "last_seen": pd.Series(later - pd.Timedelta("2D")).where(random.random(ROWS) < 0.5),
            "campaign_end": pd.Series(
                table["time"].to_pandas().dt.normalize() + pd.Timedelta("9D")
            ),
        }

    fine = spec_with_feature(age={"transform": "age", "column": "last_seen", "since": "time"})
    late = ("known_if_positive", "after_impression")
    by_check = verdicts(columns, *late, spec=fine)
    assert (by_check["known_if_positive"], by_check["after_impression"]) == ("pass", "pass")
    planned = spec_with_feature(
        left={"transform": "age", "column": "campaign_end", "since": "time"}
    )
    assert verdicts(columns, *late, spec=planned)["after_impression"] == "pass"
    age = spec_with_feature(age={"transform": "age", "column": "installed_at", "since": "time"})
    by_check = verdicts(columns, *late, spec=age)
    assert (by_check["known_if_positive"], by_check["after_impression"]) == ("stop", "stop")
    number = spec_with_feature(dwell={"transform": "numeric"})
    assert verdicts(columns, *late, spec=number)["known_if_positive"] == "stop"


def test_label_evening_stops_only_when_many_clicks_are_lost():
    def judged(clicks: int, evening: int | None) -> str:
        def columns(random, table):
            hours = np.asarray(table["time"].to_pandas().dt.hour)
            late, early = np.flatnonzero(hours >= 18), np.flatnonzero(hours < 18)
            newest = table["time"][0].as_py().date() == NEWEST
            n = evening if newest and evening is not None else clicks // 4
            click = np.zeros(ROWS, np.int64)
            click[random.choice(late, n, replace=False)] = 1
            click[random.choice(early, clicks - n, replace=False)] = 1
            return {"clicked": click}

        spec = PipelineSpec.model_validate(
            {
                "pipeline": "t",
                "features": {"campaign": "vocabulary"},
                "label": {"column": "clicked"},
            }
        )
        return verdicts(columns, "label_evening", spec=spec, label="clicked")["label_evening"]

    assert judged(10, 6) == "pass"
    assert judged(4, 0) == "pass"
    assert judged(400, None) == "pass"
    assert judged(400, 0) == "stop"


@pytest.mark.parametrize(
    ("clicks", "hours", "verdict"),
    [
        (400, 0, "pass"),
        (500, 2, "warn"),  # none of 42 expected clicks
        (1500, 2, "stop"),
        (1500, 1, "warn"),
        (60, 2, "pass"),  # none of 5 expected clicks
    ],
)
def test_missing_clicks_of_the_last_hours_warn_or_stop(clicks: int, hours: int, verdict: str):
    def columns(random, table):
        click = np.zeros(ROWS, np.int64)
        click[random.choice(ROWS, clicks, replace=False)] = 1
        if table["time"][0].as_py().date() == NEWEST:
            click[np.asarray(table["time"].to_pandas().dt.hour) >= 24 - hours] = 0
        return {"clicked": click}

    spec = PipelineSpec.model_validate(
        {"pipeline": "t", "features": {"campaign": "vocabulary"}, "label": {"column": "clicked"}}
    )
    by_check = verdicts(columns, "label_hour_low", spec=spec, label="clicked")
    assert by_check["label_hour_low"] == verdict


def test_a_widened_type_warns_and_a_changed_type_stops():
    def of_type(kind):
        newest = iter([pa.int32()] * 3 + [kind])
        return lambda random: {"age": pa.array(random.integers(18, 80, ROWS)).cast(next(newest))}

    types = ("changed_types", "widened_types")
    by_check = verdicts(of_type(pa.float64()), *types)
    assert (by_check["changed_types"], by_check["widened_types"]) == ("pass", "warn")
    assert verdicts(of_type(pa.string()), *types)["changed_types"] == "stop"


def test_changing_shares_of_numeric_ids_are_not_drift():
    """Items are names, and the policy learns which ones to show."""
    best = iter([0, 10, 20, 30])

    def columns(random):
        shares = np.full(40, 0.6 / 40)
        shares[next(best)] += 0.1
        shares[-4:] += 0.3 / 4
        return {"ad_id": pa.array(random.choice(40, ROWS, p=shares / shares.sum()))}

    assert "stop" not in verdicts(columns, "psi", "linf").values()
