"""Random variation of a few hundred clean rows a day passes; a real fault is still found."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nightbid.config.pipeline import PipelineSpec
from nightbid.gates import against_champion, input_checks
from nightbid.gates.day_profiles import DayProfile, DayProfiles
from nightbid.gates.judge import judge
from nightbid.gates.measurements import Measurements
from nightbid.gates.raw import measure_days
from nightbid.profile import Profile
from nightbid.schema import FeatureSchema, ModelInput

NEWEST = date(2026, 1, 20)
SPEC = PipelineSpec.model_validate({"pipeline": "t", "features": {"platform": "vocabulary"}})
FEW, MANY = 500, 20_000


def logs(
    day: date, rows: int, seed: int, *, shift: int = 0, flags: float = 0.001, broken: int = 0
) -> pa.Table:
    """Return a day with realistic hours; a share of its rows is flagged, and all are `seen`."""
    draw = np.random.default_rng((seed, day.toordinal()))
    weights = 2 + np.sin(np.arange(24) / 4)
    hours = (draw.choice(24, rows, p=weights / weights.sum()) + shift) % 24
    time = pd.Timestamp(day, tz="UTC") + pd.to_timedelta(hours * 3600 + draw.integers(0, 3600), "s")
    flag = draw.random(rows) < flags
    flag[:broken] = True
    seen = flag | (draw.random(rows) < 0.4)
    seen[:broken] = False
    table = pa.table(
        {
            "platform": draw.choice(["ios", "android", "web"], rows),
            "disliked": flag.astype("i8"),
            "finished": seen.astype("i8"),
        }
    )
    stamps = pa.array(time.astype("datetime64[us, UTC]"))
    return table.append_column("nb_time", stamps).append_column(
        "nb_label", pa.array((draw.random(rows) < 0.3).astype("f4"))
    )


def verdicts(family: str, rows: int, seed: int = 0, **newest: float) -> dict[str, str]:
    """Judge what was measured of one family."""
    dates = [NEWEST - timedelta(days=back) for back in range(7, -1, -1)]
    usual = {key: value for key, value in newest.items() if key == "flags"}
    days = [
        DayProfile(
            day, Profile.of(logs(day, rows, seed, **(newest if day == NEWEST else usual))), {}
        )
        for day in dates
    ]
    measured = measure_days(DayProfiles(days, [], dates), SPEC)
    mine = Measurements([each for each in measured if each.family == family])
    judgment = judge("raw", mine, SPEC.gates, NEWEST)
    return {check.name: check.verdict for check in judgment.checks}


@pytest.mark.parametrize("rows", [FEW, 2000])
def test_clock_shift_passes_random_hours_and_stops_a_shift_of_8_hours(rows: int) -> None:
    warned = [
        seed for seed in range(8) if verdicts("clock_shift", rows, seed)["clock_shift"] != "pass"
    ]
    assert not warned
    assert verdicts("clock_shift", rows, shift=8)["clock_shift"] == "stop"


def test_clock_shift_stops_a_shift_of_3_hours_on_many_rows() -> None:
    assert verdicts("clock_shift", MANY, shift=3)["clock_shift"] == "stop"


def test_contradictions_need_enough_rows_that_follow_the_rule() -> None:
    """Six videos are disliked but not finished; the other days have four such dislikes."""
    assert "contradictions:disliked without finished" not in verdicts(
        "contradictions", FEW, broken=6
    )
    # The other days show the rule on a thousand rows, so sixty rows against it are a fault.
    by_check = verdicts("contradictions", FEW * 4, flags=0.1, broken=60)
    assert by_check["contradictions:disliked without finished"] == "stop"


@pytest.mark.parametrize(("nulls", "stops"), [(25, False), (150, True)])
def test_null_excess_allows_a_day_with_many_new_users(nulls: int, stops: bool) -> None:
    """Of 500 rows, 5% have no history; that day 3% are expected, on other days 0.6%."""
    dates = [NEWEST - timedelta(days=back) for back in range(7, -1, -1)]
    days = []
    for day in dates:
        table = logs(day, FEW, 0)
        values: list[int | None] = [7] * FEW
        values[: nulls if day == NEWEST else 3] = [None] * (nulls if day == NEWEST else 3)
        table = table.append_column("history_len", pa.array(values, pa.int64()))
        days.append(DayProfile(day, Profile.of(table), {}))
    judgment = judge("raw", measure_days(DayProfiles(days, [], dates), SPEC), SPEC.gates, NEWEST)
    stopped = {check.name.partition(":")[0] for check in judgment.checks if check.verdict == "stop"}
    assert ("null_excess" in stopped) == stops


@pytest.mark.parametrize(("unknown", "constant"), [(1.0, 0.0), (0.0, 1.0)])
def test_newly_constant_ignores_ids_that_are_all_oov(unknown: float, constant: float) -> None:
    """Of 2,500 rows, 100 have an id frequent enough to be known; of the newest 500, none has."""
    ids = np.where(np.arange(2500) % 25 == 0, 2 + np.arange(2500) % 20, 1).astype(np.int32)
    splits = {
        "train": Profile.of(pa.table({"user": ids})),
        "evaluate": Profile.of(pa.table({"user": np.ones(500, np.int32)})),
    }
    entry = ModelInput(name="user", kind="id", feature="user", size=30)
    measurements = Measurements()
    input_checks.measure_faults(measurements, entry, splits, None, unknown)
    measured = {measurement.family: measurement.value for measurement in measurements}
    assert measured["newly_constant"] == constant


@pytest.mark.parametrize(("values", "stops"), [(20, False), (2000, True)])
def test_vocabulary_churn_stops_only_with_enough_values(values: int, stops: bool) -> None:
    """Every value of the vocabulary is new; each has at least 6 rows, 11 on average."""
    counts = 5 + np.random.default_rng(0).geometric(0.2, values)
    ids = np.repeat(np.arange(values), counts).astype(np.int32)
    entry = ModelInput(name="user", kind="id", feature="user", size=values)
    current, known = (pa.array([f"{side}{at}" for at in range(values)]) for side in "ab")
    measurements = Measurements()
    column = Profile.of(pa.table({"user": ids})).columns["user"]
    against_champion._churn(measurements, entry, column, current, known, 1.0)
    verdict = judge("features", measurements, SPEC.gates, NEWEST).verdict
    assert (verdict == "stop") is stops, measurements.all


@pytest.mark.parametrize(("rows", "drifts"), [(2500, False), (100_000, True)])
def test_psi_champion_allows_rates_of_few_rows_to_move(tmp_path, rows: int, drifts: bool) -> None:
    """The log odds of ten sites all move by 0.3, as refitting on few rows moves them."""
    draw = np.random.default_rng(2)
    site = draw.choice(10, rows, p=draw.dirichlet(np.ones(10)))
    odds, labels = draw.normal(0, 0.5, 10), (draw.random(rows) < 0.4).astype("f4")
    entry = ModelInput(name="site_rate", kind="float", feature="site_rate")
    trained = []
    for name, moved in (("tonight", draw.choice([-0.3, 0.3], 10)), ("champion", np.zeros(10))):
        (tmp_path / name).mkdir()
        FeatureSchema(inputs=(entry,)).save(tmp_path / name)
        values = (odds + moved)[site].astype("f4")
        table = pa.table({"site_rate": values, "nb_label": labels})
        trained.append(against_champion.TrainingData(Profile.of(table), tmp_path / name))
    measurements = Measurements()
    against_champion.measure(measurements, entry, *trained, is_log_rate=True)
    checks = judge("features", measurements, SPEC.gates, NEWEST).checks
    assert ("psi_champion:site_rate" in {check.name for check in checks}) is drifts


@pytest.mark.parametrize(("bursts", "drifts"), [(True, False), (False, True)])
def test_ids_with_bursts_of_rows_are_not_drift(bursts: bool, drifts: bool) -> None:
    """Users with five rows have an id: a fifth of the training rows, but few other rows."""
    draw = np.random.default_rng(3)
    known = draw.integers(2, 60, 400)
    train = np.concatenate([known, np.ones(1600, int)])
    newest, validate = (
        np.where(draw.random(2000) < share, draw.integers(2, 60, 2000), 1)
        for share in (0.04, 0.04 if bursts else 0.2)
    )
    splits = {
        name: Profile.of(pa.table({"user": ids.astype(np.int32)}))
        for name, ids in (("train", train), ("validate", validate), ("evaluate", newest))
    }
    entry = ModelInput(name="user", kind="id", feature="user", size=60)
    measurements = Measurements()
    input_checks.measure_drift(measurements, entry, splits, [], is_learned=True)
    metrics = {"oov_rate": {"user": 0.96}, "oov_rate_train": {"user": 0.8}}
    usual = float((validate == 1).mean())
    input_checks.measure_oov(measurements, entry, metrics, splits["evaluate"], (), usual)
    checks = judge("features", measurements, SPEC.gates, NEWEST).checks
    assert any(check.verdict != "pass" for check in checks) is drifts, checks


@pytest.mark.parametrize(("rows", "gone"), [(8, False), (2000, True)])
def test_psi_champion_ignores_values_too_rare_for_one_vocabulary(
    tmp_path, rows: int, gone: bool
) -> None:
    """Half of the values on each side are missing on the other, where they are just too rare."""
    trained = []
    for name in ("tonight", "champion"):
        tokens = [f"both{number}" for number in range(20)] + [
            f"{name}{number}" for number in range(20)
        ]
        ids = np.concatenate([np.repeat(np.arange(2, 42), rows), np.ones(40 * rows, int)])
        fitted = tmp_path / name
        (fitted / "vocabularies").mkdir(parents=True)
        pq.write_table(pa.table({"token": tokens}), fitted / "vocabularies" / "user.parquet")
        entry = ModelInput(name="user", kind="id", feature="user", size=42)
        FeatureSchema(inputs=(entry,)).save(fitted)
        table = pa.table({"user": ids.astype("i4")})
        trained.append(against_champion.TrainingData(Profile.of(table), fitted))
    measurements = Measurements()
    against_champion.measure(measurements, entry, *trained, least=5)
    measured = {measurement.family: measurement.value for measurement in measurements}
    assert (measured["psi_champion"] > 1) is gone
    assert measured["psi_champion"] == 0 or gone
