"""Errors in the keys that select the other keys of a block."""

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
