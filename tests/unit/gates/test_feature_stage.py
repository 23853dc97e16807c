"""Tests the features gate as a stage and its comparison with the champion."""

from __future__ import annotations

from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nightbid.config.gates import Gates
from nightbid.config.pipeline import PipelineSpec
from nightbid.features.fitted import Definition, FittedFeatures
from nightbid.features.learn import learn
from nightbid.gates import against_champion, features, input_checks, value_inputs
from nightbid.gates.drift import distances, pair
from nightbid.gates.judge import judge
from nightbid.gates.measurements import Measurements
from nightbid.models.layout import Layout
from nightbid.night.manifest import RowCounts
from nightbid.profile import Profile
from nightbid.schema import FeatureSchema, ModelInput

NEWEST = date(2026, 1, 20)
FEATURES = {"platform": "vocabulary", "price": {"transform": "numeric"}}


def later_by_one(table: pa.Table) -> pa.Table:
    """Return the table with one id changed, as a pipeline that differs from serving would."""
    ids = np.asarray(table["platform"]).copy()
    ids[0] += 1
    return table.set_column(0, "platform", pa.array(ids))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("", ""),
        ("leak", "single_auc:price"),
        ("leak of 20 clicks", "single_auc:price"),
        ("20 clicks", ""),
        ("skew", "skew_mismatches:platform is 1, expected ≤ 0"),
        ("other rows", "sampled and featurized rows are not the same"),
    ],
)
def test_the_features_gate_stops_leaks_skew_and_changed_rows(gate, tmp_path, fault, message):
    spec = PipelineSpec.model_validate({"pipeline": "t", "features": FEATURES})
    definition = Definition.of(spec)
    fitted: FittedFeatures | None = None
    for at, (split, rows) in enumerate({"train": 8000, "validate": 1000, "evaluate": 4000}.items()):
        random = np.random.default_rng(at)
        label = (random.random(rows) < (0.005 if "20 clicks" in fault else 0.2)).astype("f4")
        raw = pa.table(
            {
                "nb_key": random.integers(0, 2**60, rows),
                "nb_label": label,
                "platform": random.choice(["ios", "android", "web"], rows).astype(object),
                "price": random.normal(size=rows) + (8 * label if "leak" in fault else 0),
            }
        )
        if fitted is None:
            statistics = learn(definition.features, raw, train=True)
            fitted = FittedFeatures.fit(definition, statistics)
        inputs = fitted.transform(raw)
        if fault == "skew" and split == "evaluate":
            inputs = later_by_one(inputs)
        featurized = inputs.append_column("nb_key", raw["nb_key"]).append_column(
            "nb_label", raw["nb_label"]
        )
        if fault == "other rows":
            featurized = featurized.slice(1)
        Profile.of(featurized).save(tmp_path / "featurize" / "profile" / f"split={split}.json")
        for stage, table in (("sample", raw), ("featurize", featurized)):
            path = tmp_path / stage / f"split={split}" / "dt=2026-01-20" / "part-00000.parquet"
            path.parent.mkdir(parents=True)
            pq.write_table(table, path)
    assert fitted is not None
    fitted.save(tmp_path / "featurize" / "fitted")
    outcome = gate(
        features,
        {
            "featurize": {"oov_rate": {"platform": 0.01}},
            "sample": {},
        },
        rows=RowCounts(read=13_000, written=13_000),
        features=FEATURES,
    )
    assert outcome.verdict == ("stop" if message else "pass"), outcome.summary
    assert message in outcome.summary


@pytest.mark.parametrize(("played", "stops"), [(0.9, ["copy"]), (0.03, ["copy", "sold"])])
def test_inputs_that_leak_the_amount_stop_the_gate(tmp_path, played, stops):
    """That a video plays says little about how long; that an item is sold says almost all."""
    for at, split in enumerate(("train", "evaluate")):
        random = np.random.default_rng(at)
        long = random.normal(size=8000)
        some = random.random(8000) < played
        amount = np.where(some, np.exp(3 + 0.4 * long + random.normal(size=8000)), 0).astype("f4")
        table = pa.table(
            {
                "nb_label": amount,
                "sold": some.astype("i4"),  # for watch time, this is the tab that plays
                "long": long.astype("f4"),
                "copy": pa.array(np.where(random.random(8000) < 0.02, None, amount), pa.float32()),
                "tags": [random.integers(0, 9, random.integers(0, 4)).tolist() for _ in long],
            }
        )
        path = tmp_path / f"split={split}" / "dt=2026-01-20" / "part-00000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(table, path)
    inputs = (
        ModelInput(name="sold", kind="id", feature="sold", size=2),
        ModelInput(name="long", kind="float", feature="long"),
        ModelInput(name="copy", kind="float", feature="copy"),
        ModelInput(name="tags", kind="sequence", feature="tags", size=9, length=4),
    )
    measurements = Measurements()
    layout = Layout(FeatureSchema(inputs=inputs))
    value_inputs.measure_ranking(measurements, tmp_path, layout, inputs)
    checks = judge("features", measurements, Gates(), NEWEST).checks
    assert {check.name for check in checks if check.verdict != "pass"} == {
        f"single_concordance:{name}" for name in stops
    }
    assert {check.verdict for check in checks if check.verdict != "pass"} == {"stop"}
    assert len(measurements.all) == 2 * len(inputs)


@pytest.mark.parametrize(
    ("known", "statistic"),
    [
        (["phone", "tablet", "tv"], ""),
        (["tv", "phone", "tablet"], ""),
        (["watch", "car", "glasses"], "vocabulary_churn:device"),
        (["phone", "tablet", "car"], "psi_champion:device"),
    ],
)
def test_ids_are_compared_with_the_champion_by_their_values(tmp_path, known, statistic):
    trained = []
    for name, tokens in (("tonight", ["phone", "tablet", "tv"]), ("champion", known)):
        random = np.random.default_rng(len(trained))
        seen = random.choice(3, 5000, p=[0.5, 0.3, 0.2])
        device = np.array(["phone", "tablet", "tv"])[seen] if set(tokens) & {"tv"} else (
            np.array(tokens)[seen]
        )  # fmt: skip
        places = {token: at for at, token in enumerate(tokens)}
        ids = np.array([2 + places[token] for token in device]).astype("i4")
        fitted = tmp_path / name
        (fitted / "vocabularies").mkdir(parents=True)
        pq.write_table(pa.table({"token": tokens}), fitted / "vocabularies" / "device.parquet")
        entry = ModelInput(name="device", kind="id", feature="device", size=5)
        FeatureSchema(inputs=(entry,)).save(fitted)
        trained.append(against_champion.TrainingData(Profile.of(pa.table({"device": ids})), fitted))
    measurements = Measurements()
    against_champion.measure(measurements, entry, *trained)
    checks = judge("features", measurements, Gates(), NEWEST).checks
    failed = [check.name for check in checks if check.verdict != "pass"]
    assert (statistic in failed) if statistic else not failed, failed


@pytest.mark.parametrize("fresh", [False, True])
def test_rare_ids_are_not_counted_as_vocabulary_churn(tmp_path, fresh):
    """The vocabulary of 500 rows with long-tail ids holds the ids that occur five times or more."""
    names = np.array([f"{at}" for at in range(400)])
    likely = 1 / (np.arange(400) + 12.0)
    trained, share = [], []
    for name in ("tonight", "champion"):
        random = np.random.default_rng(len(trained))
        seen = random.choice(names, 500, p=likely / likely.sum())
        values, counts = np.unique(seen, return_counts=True)
        tokens = values[counts >= 5]
        share.append(set(tokens))
        places = {token: at for at, token in enumerate(tokens)}
        ids = np.array([2 + places.get(ad, -1) for ad in seen]).astype("i4")
        fitted = tmp_path / name
        (fitted / "vocabularies").mkdir(parents=True)
        vocabulary = [f"new {token}" for token in tokens] if fresh and trained else tokens
        pq.write_table(pa.table({"token": vocabulary}), fitted / "vocabularies" / "ad.parquet")
        entry = ModelInput(name="ad", kind="id", feature="ad", size=2 + len(tokens))
        FeatureSchema(inputs=(entry,)).save(fitted)
        trained.append(against_champion.TrainingData(Profile.of(pa.table({"ad": ids})), fitted))
    assert len(share[0] - share[1]) > 5
    measurements = Measurements()
    against_champion.measure(
        measurements, FeatureSchema.load(trained[0].fitted).inputs[0], *trained
    )
    measured = {measurement.family: measurement.value for measurement in measurements}
    # With so few values, different ones prove nothing: the check warns and does not stop.
    assert measured["vocabulary_churn"] == pytest.approx(0.65 if fresh else 0.0, abs=0.05)


@pytest.mark.parametrize(("moved", "statistic"), [(0.05, ""), (1.0, "psi_champion:site_ctr")])
def test_refitted_rates_are_not_drift_from_the_champion(tmp_path, moved, statistic):
    """Each of a few sites has one rate: refitting changes every value, but only slightly."""
    random = np.random.default_rng(1)
    site = random.choice(30, 20_000, p=random.dirichlet(np.ones(30)))
    rates = random.normal(0.1, 0.03, 30)
    trained = []
    for name, values in (("tonight", rates + 0.03 * moved), ("champion", rates)):
        entry = ModelInput(name="site_ctr", kind="float", feature="site_ctr")
        (tmp_path / name).mkdir()
        FeatureSchema(inputs=(entry,)).save(tmp_path / name)
        profile = Profile.of(pa.table({"site_ctr": values[site].astype("f4")}))
        trained.append(against_champion.TrainingData(profile, tmp_path / name))
    measurements = Measurements()
    against_champion.measure(measurements, entry, *trained)
    checks = judge("features", measurements, Gates(), NEWEST).checks
    failed = [check.name for check in checks if check.verdict != "pass"]
    assert (statistic in failed) if statistic else not failed, failed


def test_small_moves_of_few_distinct_values_are_not_drift():
    """Seven rates of one feature are estimated again; each moves by less than 0.01."""
    random = np.random.default_rng(0)
    rates, shares = np.array([-0.02, -0.01, 0.0, 0.01, 0.015, 0.02, 0.05]), np.full(7, 1 / 7)
    old, new = (
        Profile.of(pa.table({"x": random.choice(rates + move, 20_000, p=shares)})).columns["x"]
        for move in (0.0, 0.006)
    )
    both = pair(new, old)
    assert distances(both).psi > 1, "as a number, every one of them is another one"
    assert distances(both, least=0.1).psi < 0.1
    shifted = Profile.of(pa.table({"x": random.choice(rates + 0.3, 20_000)})).columns["x"]
    assert distances(pair(shifted, old), least=0.1).psi > 1


def test_absence_of_a_rare_value_is_explained_by_chance():
    rare, often = (
        Profile.of(pa.table({"x": (np.arange(8000) % period == 0).astype("i8")})).columns["x"]
        for period in (1000, 4)
    )
    none = Profile.of(pa.table({"x": np.zeros(500, np.int64)})).columns["x"]
    assert input_checks.constant_by_chance(rare, none) > 0.5
    assert input_checks.constant_by_chance(often, none) < 1e-6


@pytest.mark.parametrize(
    ("newest", "train", "rows", "low", "high"),
    [
        (0.9946, 0.99, 500, 0.0, 0.3),  # nearly all values are too rare to be known, as before
        (0.03, 0.01, 50_000, 0.0, 0.02),
        (0.98, 0.01, 50_000, 0.9, 1.0),  # renamed
        (1.0, 0.2, 50_000, 0.9, 1.0),
    ],
)
def test_values_too_rare_for_the_vocabulary_are_not_counted_as_oov(newest, train, rows, low, high):
    measurements = Measurements()
    seen = Profile.of(pa.table({"user": np.zeros(rows, np.int32)}))
    metrics = {"oov_rate": {"user": newest}, "oov_rate_train": {"user": train}}
    entry = ModelInput(name="user", kind="id", feature="user", size=9)
    input_checks.measure_oov(measurements, entry, metrics, seen, ())
    assert low <= next(iter(measurements)).value <= high
