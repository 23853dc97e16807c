"""The raw gate judges a profile and rows: on a small day both give the same verdict."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from nightbid.config.gates import Gates
from nightbid.config.pipeline import PipelineSpec
from nightbid.gates import row_expectations
from nightbid.gates.day_profiles import DayProfile, DayProfiles
from nightbid.gates.judge import judge
from nightbid.gates.measurements import Measurements
from nightbid.gates.raw import measure_days
from nightbid.profile import Profile
from nightbid.profile.rows import RowSample

ROWS = 4000
NEWEST = date(2026, 1, 20)
SPEC = PipelineSpec.model_validate(
    {
        "pipeline": "t",
        "features": {"platform": "vocabulary"},
        "columns": {"key": "impression_id"},
    }
)
NULL, HOUR = None, pd.Timedelta(hours=1)


def logs(day: date) -> pd.DataFrame:
    random = np.random.default_rng(day.toordinal())
    time = pd.Timestamp(day, tz="UTC") + pd.to_timedelta(random.integers(0, 86_400, ROWS), "s")
    click = random.random(ROWS) < 0.1
    return pd.DataFrame(
        {
            "impression_id": random.integers(0, 2**50, ROWS),
            "time": time.astype("datetime64[us, UTC]"),
            "user_id": random.integers(0, 900, ROWS),
            "ad_id": random.integers(0, 90, ROWS),
            "platform": random.choice(["ios", "android", "web"], ROWS),
            "device": random.choice(["phone", "desktop"], ROWS),
            "price": random.uniform(1, 2, ROWS),
            "floor": random.uniform(1, 2, ROWS),
            "bid": random.uniform(1, 2, ROWS),
            "click": click.astype("i8"),
            "buy": (click & (random.random(ROWS) < 0.5)).astype("i8"),
            "click_time": pd.Series(time + HOUR).where(click).astype("datetime64[us, UTC]"),
        }
    )


def some(share: float) -> np.ndarray:
    return np.random.default_rng(1).random(ROWS) < share


def put(column: str, value, share: float):
    return lambda frame: frame.assign(
        **{column: frame[column].mask(some(share), value(frame) if callable(value) else value)}
    )


def table(frame: pd.DataFrame) -> pa.Table:
    rows = pa.Table.from_pandas(frame, preserve_index=False)
    rows = rows.append_column("nb_key", rows["impression_id"])
    rows = rows.append_column("nb_label", rows["click"].cast(pa.float32()))
    return rows.append_column("nb_time", rows["time"])


def by_profile_and_rows(spoil, limit: int) -> tuple[dict, dict, Measurements]:
    """Return statistics that warn or stop, by the newest day's profile and by its rows."""
    days = []
    for back in range(3, -1, -1):
        day = NEWEST - timedelta(days=back)
        frame = logs(day)
        if not back and spoil is not None:
            frame = spoil(frame)
        profile, sample = Profile(), RowSample()
        for start in range(0, ROWS, 1500):
            part = table(frame[start : start + 1500])
            profile = profile.merge(Profile.of(part, ("user_id", "ad_id")))
            sample = sample.add(part, limit)
        days.append(DayProfile(day, profile, {"read": len(frame)}))
    known = DayProfiles(days, [], [day.date for day in days])
    assert sample.table is not None
    measurements = Measurements()
    row_expectations.measure(measurements, sample.table, known, days[-1], SPEC)
    counted = {measurement.family for measurement in measurements}
    whole = measure_days(known, SPEC)
    same = Measurements([f for f in whole if f.part == days[-1].name and f.family in counted])
    return verdicts(same), verdicts(measurements), measurements


def verdicts(measurements: Measurements) -> dict[str, str]:
    checks = judge("raw", measurements, Gates(), NEWEST).checks
    findings = [finding for check in checks for finding in check.findings]
    return {finding.measurement.statistic: finding.verdict for finding in findings}


def chain(*changes):
    def spoil(frame: pd.DataFrame) -> pd.DataFrame:
        for change in changes:
            frame = change(frame)
        return frame

    return spoil


SPOILED = {
    "clean": (None, {}),
    "faults within limits": (chain(put("platform", NULL, 0.005), put("price", 5000.0, 0.0003)), {}),
    "faults that warn": (
        chain(put("platform", NULL, 0.03), put("device", "tv", 0.03), put("price", np.inf, 0.012)),
        {
            "null_excess:platform": "warn",
            "new_values:device": "warn",
            "nan_excess:price": "warn",
        },
    ),
    "faults that stop": (
        chain(
            put("platform", NULL, 0.1),
            put("device", "", 0.1),
            put("price", np.inf, 0.1),
            put("floor", 5000.0, 0.01),
            put("bid", -1.0, 0.01),
            put("buy", 1, 0.05),
            put("time", lambda frame: frame["time"] + 30 * HOUR, 0.05),
            put("impression_id", lambda frame: frame["impression_id"].iloc[0], 0.05),
        ),
        {
            "null_excess:platform": "stop",
            "blank_excess:device": "stop",
            "new_values:device": "stop",
            "nan_excess:price": "stop",
            "out_of_range:floor": "stop",
            "out_of_range:bid": "stop",
            "contradictions:buy without click": "stop",
            "contradictions:time after click_time": "stop",
            "outside_day": "stop",
            "duplicates": "stop",
        },
    ),
}


@pytest.mark.parametrize("fault", SPOILED)
def test_profile_and_rows_give_the_same_verdict(fault: str) -> None:
    spoil, expected = SPOILED[fault]
    by_profile, by_rows, _ = by_profile_and_rows(spoil, ROWS)
    assert by_profile == expected
    assert by_rows == expected


def test_the_note_of_repeated_keys_states_no_usual_share() -> None:
    spoil = put("impression_id", lambda frame: frame["impression_id"].iloc[0], 0.05)
    _, _, measurements = by_profile_and_rows(spoil, ROWS)
    (note,) = (of.note for of in measurements if of.statistic == "duplicates")
    assert "usually" not in note  # the limit is absolute: the other days are not looked at


def test_a_row_sample_gives_the_same_verdict_and_names_example_rows() -> None:
    spoil = put("platform", "tv", 0.2)
    _, by_rows, measurements = by_profile_and_rows(spoil, 1000)
    assert by_rows == {"new_values:platform": "stop"}
    new_values = next(
        measurement
        for measurement in measurements
        if measurement.statistic == "new_values:platform"
    )
    assert "1,000 sampled rows" in new_values.part
    keys = [int(word.strip(",")) for word in new_values.note.split() if word.strip(",").isdigit()]
    frame = spoil(logs(NEWEST)).set_index("impression_id")
    assert any(key in frame.index and frame.loc[key, "platform"] == "tv" for key in keys)


def test_a_row_sample_does_not_depend_on_batches() -> None:
    whole = table(logs(NEWEST))
    once = RowSample().add(whole, 500).table
    parts = RowSample()
    for start in range(0, ROWS, 700):
        parts = parts.add(whole.slice(start, 700), 500)
    assert once is not None
    assert parts.table is not None
    assert len(once) == 500
    assert parts.table.equals(once)
