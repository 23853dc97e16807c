"""Errors of pipeline YAMLs say in plain words which key is wrong, and what to write."""

from __future__ import annotations

import pytest
from nightbid.config.load import parse_pipeline
from nightbid.errors import ConfigError


@pytest.mark.parametrize(
    ("block", "line"),
    [
        ("source: {folder: /logs}", "key 'source.kind' is missing"),
        (
            "source: {kind: parquets, folder: /logs}",
            "source.kind: there is no 'parquets', did you mean 'parquet'?",
        ),
        (
            "source: {kind: xml, folder: /logs}",
            "source.kind: there is no 'xml', known: simulator, obd, kuairand, parquet,",
        ),
        (
            "features: {ad_id: {transform: vocab}}",
            "features.ad_id.transform: there is no 'vocab', did you mean 'vocabulary'?",
        ),
    ],
)
def test_a_wrong_or_missing_kind_names_the_key_and_what_to_write(block, line):
    features = "" if block.startswith("features") else "features: {ad_id: vocabulary}\n"
    with pytest.raises(ConfigError) as error:
        parse_pipeline(f"pipeline: p\n{features}{block}\n", "p.yaml")
    assert str(error.value).startswith(f"p.yaml: {line}")


@pytest.mark.parametrize(
    ("block", "line"),
    [
        ("features:", "features: must be a block of `key: value` lines; without a value, remove"),
        ("features: [ad_id]", "features: must be a block of `key: value` lines"),
        ("train:", "train: must be a block of `key: value` lines; without a value, remove the key"),
        ("evaluate: {slices: ad_id}", "evaluate.slices: must be a list, such as [a, b], got 'ad_"),
        ("train: {epochs: three}", "train.epochs: must be a whole number, got 'three'"),
        ("train: {epochs: 0}", "train.epochs: must be greater than or equal to 1, got 0"),
        ("budget: {run_usd: $5}", "budget.run_usd: must be a number, got '$5'"),
        ("approval: maybe", "approval: must be true or false, got 'maybe'"),
        ("columns: {user: 7}", "columns.user: must be text; write it in quotes, got 7"),
        ("source: {kind: csv, folder: /x, delimeter: ;}",
         "unknown key 'source.delimeter' of 'csv', did you mean 'delimiter'?"),
        ("features: {ad_id: {transform: hash, bucket: 9}}",
         "unknown key 'features.ad_id.bucket' of 'hash', did you mean 'buckets'?"),
        ("features: {age: {transform: hash, bucket: 9}}",
         "unknown key 'features.age.bucket' of 'hash', did you mean 'buckets'?"),
        ("features: {numeric: {bucket: 9}}",
         "unknown key 'features.numeric.bucket' of 'vocabulary', did you mean 'oov_buckets'?"),
        ("source: {kind: csv}", "key 'source.folder' is missing"),
        ("epochs: 3", "unknown key 'epochs', did you mean 'train.epochs'?"),
        ("window: {epochs: 3}", "unknown key 'window.epochs', did you mean 'train.epochs'?"),
        ("folder: /x", "unknown key 'folder', did you mean 'source.folder' or 'source.impressions"),
        ("features: {ad_id: {kind: 3}}", "unknown key 'features.ad_id.kind' of 'vocabulary'"),
    ],
)  # fmt: skip
def test_errors_speak_of_the_file_and_not_of_the_program(block, line):
    features = "" if block.startswith("features") else "features: {ad_id: vocabulary}\n"
    with pytest.raises(ConfigError) as error:
        parse_pipeline(f"pipeline: p\n{features}{block}\n", "p.yaml")
    assert str(error.value).startswith(f"p.yaml: {line}")


@pytest.mark.parametrize("number", [".nan", ".inf", "nan", "-inf"])
@pytest.mark.parametrize(
    ("block", "key"),
    [
        ("gates: {{raw: {{rows_vs_usual: {{stop: [{}, 2]}}}}}}", "gates.raw.rows_vs_usual.stop.0"),
        ("train: {{learning_rate: {}}}", "train.learning_rate"),
        ("budget: {{run_usd: {}}}", "budget.run_usd"),
        ("serve: {{p99_ms: {}}}", "serve.p99_ms"),
    ],
)
def test_a_number_that_is_not_finite_is_refused(number, block, key):
    """A limit of NaN would never be exceeded."""
    text = f"pipeline: p\nfeatures: {{ad_id: vocabulary}}\n{block.format(number)}\n"
    with pytest.raises(ConfigError, match=f"{key}: must be a finite number"):
        parse_pipeline(text, "p.yaml")
