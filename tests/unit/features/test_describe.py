"""The documentation of features is complete and matches the fitted statistics."""

from __future__ import annotations

import pytest
import yaml
from nightbid.config.pipeline import PipelineSpec
from nightbid.features.describe import Documentation, FeatureDescription
from nightbid.features.fitted import Definition, FittedFeatures

BASE = {
    "site": {"transform": "vocabulary"},
    "shop": {"transform": "vocabulary"},
}


def describe(feature: dict, **blocks: object) -> FeatureDescription:
    spec = PipelineSpec.model_validate(
        {
            "pipeline": "t",
            "columns": {"time": "served"},
            "features": {**BASE, "f": feature},
            **blocks,
        }
    )
    return FittedFeatures(Definition.of(spec), {}).documentation.features[-1]


@pytest.mark.parametrize(
    ("feature", "settings"),
    [
        (
            "{transform: numeric}",
            "{column: x, clip: [0, 9], log1p: true, scale: robust, missing_indicator: true,"
            " training_only: true}",
        ),
        ("{transform: quantile_buckets}", "{column: x, buckets: 9}"),
        ("{transform: buckets, boundaries: [1]}", "{column: x, boundaries: [1, 2.5]}"),
        ("{transform: vocabulary}", "{column: x, top_k: 7, min_count: 1, oov_buckets: 3}"),
        ("{transform: hash}", "{column: x, buckets: 9}"),
        ("{transform: cross, columns: [a, b]}", "{columns: [a, c], buckets: 9}"),
        (
            "{transform: bag}",
            '{column: x, length: 3, weights: w, separator: ";", top_k: 7, min_count: 1,'
            " oov_buckets: 3}",
        ),
        (
            "{transform: sequence}",
            '{column: x, length: 3, separator: ";", vocabulary: site, top_k: 7, min_count: 1,'
            " oov_buckets: 3}",
        ),
        (
            "{transform: recent, column: a, by: [u], vocabulary: site}",
            "{column: x, by: [v], vocabulary: shop, length: 3, rows: all, before: day,"
            " delay_seconds: 5}",
        ),
        ("{transform: identity, size: 4}", "{column: x, size: 5}"),
        ("{transform: hour}", "{column: x}"),
        ("{transform: day_of_week}", "{column: x}"),
        ("{transform: age, since: born}", "{column: x, since: y}"),
        ("{transform: target_rate}", "{column: x, columns: [a, b], strength: 3}"),
        ("{transform: count}", "{column: x, columns: [a, b]}"),
        ("{transform: text_ngrams}", "{column: x, length: 3, ngrams: 1, buckets: 9}"),
        (
            "{transform: function, function: text_length, columns: [a]}",
            "{columns: [b], then: hash}",
        ),
        (
            "{transform: function, function: text_length, columns: [a], then: hash}",
            "{buckets: 9}",
        ),
    ],
)
def test_documentation_mentions_every_setting(feature, settings):
    block = yaml.safe_load(feature)
    plain = describe(block)
    assert plain.makes
    assert plain.learned == ""
    for name, value in yaml.safe_load(settings).items():
        assert describe({**block, name: value}) != plain, name


def test_columns_read_by_history_features_include_the_time():
    rate = describe({"transform": "target_rate", "columns": ["user"]})
    assert rate.reads == ("user", "served")
    assert describe({"transform": "cross", "columns": ["a", "b"]}).reads == ("a", "b")


def test_documentation_mentions_days_left_out_for_late_labels():
    rate = {"transform": "target_rate", "columns": ["user"]}
    late = {"column": "bought", "attribution_days": 7, "event_time": "bought_at"}
    assert "without the newest 7" in describe(rate, label=late).looks_back
    assert describe(rate).looks_back == "days before the row's own"
    clicked = {"transform": "recent", "column": "site", "by": ["user"], "vocabulary": "site"}
    assert "7 days and 600 seconds" in describe(clicked, label=late).looks_back
    every = {**clicked, "rows": "all"}
    assert "more than 600 seconds before the row's time" in describe(every, label=late).looks_back


def test_unfitted_sizes_are_upper_bounds_and_fitted_sizes_exact(fitted):
    unlearned = FittedFeatures(fitted.definition, {}).documentation
    unlearned_by_name = {feature.name: feature for feature in unlearned.features}
    assert "at most 100,004 (0 is missing, 1 to 3 are OOV)" in unlearned_by_name["site"].inputs[0]
    assert "at most 9 " in unlearned_by_name["price_bucket"].inputs[0]
    assert "at most 100,004 " in unlearned_by_name["lately"].inputs[0]
    for entry in fitted.documentation.features:
        assert "at most" not in " ".join(entry.inputs)
    lines = [line for feature in fitted.documentation.features for line in feature.inputs]
    for line, entry in zip(lines, fitted.schema.inputs, strict=True):
        assert line.startswith(f"{entry.name}: ")
        assert entry.kind == "float" or f" of {entry.size:,} " in line
        assert entry.kind not in ("bag", "sequence") or f"{entry.length:,} int32 ids" in line


def test_learned_statistics_are_documented_and_saved(fitted, tmp_path):
    fitted.save(tmp_path)
    known = {feature.name: feature.learned for feature in Documentation.load(tmp_path).features}
    assert known["site"] == f"{len(fitted.learned['site'].tokens):,} values"
    mean, inverse = fitted.learned["price"].numbers
    assert known["price"] == f"mean {mean:,.6g}, standard deviation {1 / inverse:,.6g}"
    assert known["middle"].startswith("median ")
    edges = fitted.learned["price_bucket"].numbers
    assert known["price_bucket"] == "boundaries " + ", ".join(f"{edge:,.6g}" for edge in edges)
    assert known["site_rate"] == "5 keys, 2024-10-04 to 2024-10-07"
    assert known["lately"].endswith(" keys")
    nothing = ("clipped", "fixed_bucket", "site_hash", "pair", "words", "slot", "hour")
    assert [known[name] for name in nothing] == [""] * len(nothing)


def test_oov_rates_are_documented_by_feature(fitted):
    documentation = fitted.documentation.with_oov({"site": 0.125, "words": 0.0})
    known = {feature.name: feature.learned for feature in documentation.features}
    assert known["site"].endswith(" values, 12.50% OOV in the newest rows")
    assert known["price"] == fitted.documentation.features[0].learned
