"""Each gate as a stage: clean inputs pass, broken ones stop with the reason."""

from __future__ import annotations

import functools
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from nightbid.config.pipeline import Night, PipelineSpec
from nightbid.cost.ledger import record_stage_usage
from nightbid.gates import column_checks, cost, raw, serving
from nightbid.gates.day_profiles import DayProfile, DayProfiles
from nightbid.gates.measurements import Measurements
from nightbid.night.manifest import Usage
from nightbid.night.record import RunRecord
from nightbid.profile import Profile
from nightbid.storage.workspace import Workspace

NEWEST = date(2026, 1, 20)
HOUR = 3_600_000_000


def logs(day: date, mutate=None, rows: int = 4000) -> pa.Table:
    random = np.random.default_rng(day.toordinal())
    weights = 2 + np.sin(np.arange(24) / 4)
    hours = random.choice(24, rows, p=weights / weights.sum())
    start = (day - date(1970, 1, 1)).days * 24 * HOUR
    platform = random.choice(["ios", "android", "web"], rows, p=[0.3, 0.5, 0.2]).astype(object)
    ad = random.zipf(1.5, rows) % 500
    user = random.integers(0, 1500, rows)
    rate = 0.05 * (1 + 2 * (platform == "ios")) * (1 + (ad % 7) / 3)
    columns = {
        "impression_id": random.integers(0, 2**50, rows),
        "time": start + hours * HOUR + random.integers(0, HOUR, rows),
        "user_id": user,
        "ad_id": ad,
        "country": np.array(["de", "fr", "it", "es"])[user % 4],
        "site": random.choice(20, rows).astype("i8"),
        "platform": platform,
        "price": random.lognormal(size=rows),
        "click": (random.random(rows) < rate).astype("i8"),
    }
    if mutate:
        columns = mutate(columns, random)
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    time = table["time"].cast(pa.timestamp("us")).cast(pa.timestamp("us", "UTC"))
    table = table.set_column(table.column_names.index("time"), "time", time)
    table = table.append_column("nb_key", table["impression_id"])
    table = table.append_column("nb_label", table["click"].cast(pa.float32()))
    return table.append_column("nb_time", time)


def double_noon(columns, random):
    noon = columns["time"] // HOUR % 24 == 12
    return {name: np.concatenate([column, column[noon]]) for name, column in columns.items()}


def changed(name, change):
    return lambda columns, random: {**columns, name: change(columns[name], random)}


FAULTS = {
    "clean": (None, ""),
    "price in another unit": (changed("price", lambda v, _: v * 1000), "price"),
    "times in another zone": (changed("time", lambda v, _: v + 8 * HOUR), "outside_day"),
    "duplicated hour": (double_noon, "duplicates"),
    "nulls": (
        changed("platform", lambda v, r: np.where(r.random(len(v)) < 0.1, None, v)),
        "platform",
    ),
    "renamed value": (
        changed("platform", lambda v, _: np.where(v == "web", "Web", v)),
        "platform",
    ),
    "lost labels": (
        changed("click", lambda v, r: v * (r.random(len(v)) < 0.3)),
        "label_rate_vs_usual",
    ),
    "stale join": (changed("platform", lambda v, r: r.permutation(v)), "auc_loss:platform"),
    "leak": (
        lambda c, r: {**c, "price": c["price"] * (1 + 20 * c["click"])},
        "auc_gain:price",
    ),
    "bot traffic": (
        lambda c, r: {
            **c,
            "user_id": np.where((c["click"] == 1) & (r.random(4000) < 0.3), 7, c["user_id"]),
        },
        "concentration:user_id",
    ),
    "shuffled user countries": (
        changed("country", lambda v, r: r.permutation(v)),
        "attribute_loss:country",
    ),
    "missing site": (
        lambda c, r: {k: v[c["site"] != 3] for k, v in c.items()},
        "lost_values:site",
    ),
    "missing column": (lambda c, r: {k: v for k, v in c.items() if k != "price"}, "price"),
}


@functools.cache
def clean_profile(day: date) -> Profile:
    return Profile.of(logs(day), ("user_id", "ad_id"))


@pytest.mark.parametrize("fault", FAULTS)
def test_the_raw_gate_passes_clean_days_and_finds_each_fault(gate, tmp_path, fault):
    mutate, expected = FAULTS[fault]
    spec = PipelineSpec.model_validate({"pipeline": "t", "features": {"a": {"column": "a"}}})
    night = Night.of(spec, NEWEST)
    days = {}
    for day in (*night.train, *night.validate_, *night.evaluate):
        profile = clean_profile(day)
        if mutate and day == NEWEST:
            profile = Profile.of(logs(day, mutate), ("user_id", "ad_id"))
        profile.save(tmp_path / "sample" / "profile" / f"dt={day}.json")
        days[str(day)] = {"read": profile.rows, "written": profile.rows, "quarantined": 0}
    outcome = gate(raw, {"sample": {"days": days}})
    if not expected:
        assert outcome.verdict == "pass", outcome.summary
        return
    assert outcome.verdict in ("warn", "stop"), outcome.summary
    messages = [
        f"{check['name']} {check['detail']}"
        for check in outcome.metrics["checks"]
        if check["verdict"] != "pass"
    ]
    assert any(expected in message for message in messages), messages


@pytest.mark.parametrize("gone", [False, True])
def test_growing_ages_are_not_lost_values_and_vanished_shops_are(gone):
    """Both columns are numbers with few values: ages 5 to 7, then 6 to 8, …; shops 1 to 4."""
    days = []
    for at in range(4):
        ages = np.repeat([5, 6, 7], 400) + at
        shops = np.tile([1, 2, 3] if gone and at == 3 else [1, 2, 3, 4], 1200)[:1200]
        profile = Profile.of(pa.table({"age": ages, "shop": shops}))
        days.append(DayProfile(NEWEST - timedelta(days=3 - at), profile, {}))
    measurements = Measurements()
    spec = PipelineSpec.model_validate({"pipeline": "t", "features": {"a": {"column": "a"}}})
    column_checks.measure(measurements, DayProfiles(days, [], []), days[-1], spec)
    lost = {
        measurement.subject: measurement.value
        for measurement in measurements
        if measurement.family == "lost_values"
    }
    assert lost.pop("age", 0.0) == 0.0
    assert lost == {"shop": 0.25 if gone else 0.0}


@pytest.mark.parametrize("gone", [False, True])
def test_values_missing_on_every_day_are_not_counted_as_lost(gone):
    """Each day lacks a different site with 4% of the rows, as when few users visit it."""
    days = []
    for at in range(6):
        sites = np.concatenate([np.arange(20), np.arange(20, 26)[np.arange(6) != at]])
        if gone and at == 5:
            sites = sites[sites != 3]
        profile = Profile.of(pa.table({"site": np.repeat(sites, 60)}))
        days.append(DayProfile(NEWEST - timedelta(days=5 - at), profile, {}))
    measurements = Measurements()
    spec = PipelineSpec.model_validate({"pipeline": "t", "features": {"a": {"column": "a"}}})
    column_checks.measure(measurements, DayProfiles(days, [], []), days[-1], spec)
    lost = {
        measurement.subject: measurement.value
        for measurement in measurements
        if measurement.family == "lost_values"
    }
    assert lost == {"site": pytest.approx(0.04 if gone else 0.0)}


def test_a_gate_without_profiles_stops(gate):
    outcome = gate(raw, {"sample": {"days": {}}})
    assert outcome.verdict == "stop"
    assert "no day has a profile" in outcome.summary


@pytest.mark.parametrize(("p99", "skew"), [(4.0, 0), (400.0, 0), (4.0, 1)])
def test_the_serving_gate_stops_on_latency_and_skew(gate, p99, skew):
    load = {"engine": "onnx", "candidates": 100, "requests": 500, "curve": [],
            "latency_ms": {"p50": 2.0, "p95": 3.0, "p99": p99},
            "requests_per_second_per_core": 400.0}  # fmt: skip
    export = {"parity_max_difference": 6e-8, "skew_rows": 1000, "skew_mismatches": skew,
              "bytes": 10_000_000}  # fmt: skip
    outcome = gate(serving, {"load_test": load, "export": export})
    assert outcome.verdict == ("stop" if p99 > 100 or skew else "pass"), outcome.summary


@pytest.mark.parametrize(("held", "verdict"), [(400, "pass"), (150, "warn"), (0, "stop")])
def test_the_request_rate_within_the_objective_is_judged(gate, held, verdict):
    load = {
        "latency_ms": {"p50": 2.0, "p95": 3.0, "p99": 4.0}, "requests": 300, "candidates": 100,
        "engine": "onnxruntime, 1 thread", "requests_per_second_per_core": 400.0,
        "served": {
            "objective": {"p99_ms": 20.0, "requests_per_second": 200.0, "candidates": 100},
            "candidate": {"requests_per_second": held, "processes": 2},
            "champion": {"requests_per_second": 300, "processes": 2},
        },
    }  # fmt: skip
    export = {"parity_max_difference": 6e-8, "skew_rows": 1000, "skew_mismatches": 0, "bytes": 1}
    outcome = gate(serving, {"load_test": load, "export": export})
    assert outcome.verdict == verdict, outcome.summary
    if verdict != "pass":
        assert "rate_held" in outcome.summary


@pytest.mark.parametrize(("budget", "verdict"), [("100", "pass"), ("0.000001", "stop")])
def test_the_cost_gate_stops_over_budget(gate, tmp_path, budget, verdict):
    spec = PipelineSpec.model_validate({"pipeline": "t", "features": {"a": {"column": "a"}}})
    run = RunRecord.start(Workspace(str(tmp_path)), spec, NEWEST, run_id="r")
    for attempt, state in ((1, "failed"), (2, "done")):
        record_stage_usage(
            run.workspace,
            pipeline="t",
            run_id="r",
            stage="train",
            attempt=attempt,
            usage=Usage(cpu_seconds=100, gb_seconds=200, wall_seconds=60),
            started=datetime.now(UTC),
            state=state,
        )
    outcome = gate(cost, {}, budget={"run_usd": budget})
    assert outcome.verdict == verdict, outcome.summary
    assert outcome.metrics["by_stage"]["train"] > 0
