"""Tests what a sweep's `--set` arguments mean, and which are refused."""

from __future__ import annotations

from functools import partial

import pytest
from nightbid.config.load import parse_pipeline
from nightbid.errors import ConfigError
from nightbid.sweep.space import parse_space

TEXT = "pipeline: small\nfeatures: {ad: vocabulary}\nmodel: {architecture: dcn_v2}\n"
load = partial(parse_pipeline, TEXT, "small.yaml")


def test_space_parses_lists_ranges_and_fixed_values():
    space = parse_space(
        ["model.cross_layers=1,2,3", "train.lr=log:1e-4..1e-2", "train.epochs=2",
         "train.warmup=lin:0.0..0.5", "train.batch_size=lin:64..256"], load,
    )  # fmt: skip
    by_key = {parameter.key: parameter for parameter in space.parameters}
    assert by_key["model.parameters.cross_layers"].choices == ("1", "2", "3")
    rate = by_key["train.learning_rate"]
    assert (rate.low, rate.high, rate.log, rate.whole) == (1e-4, 1e-2, True, False)
    assert by_key["train.batch_size"].whole
    assert not by_key["train.warmup"].whole
    assert space.fixed == ("train.epochs=2",)
    assert space.size is None


def test_overrides_of_a_trial_load_as_the_proposed_values():
    space = parse_space(["model.hidden=[64,32],[8]", "train.lr=log:1e-4..1e-2"], load)
    values = {"model.parameters.hidden": "[64, 32]", "train.learning_rate": 0.00123456}
    spec = load(space.overrides(values))
    assert spec.model.parameters == {"hidden": [64, 32]}
    assert spec.train.learning_rate == 0.001235
    assert parse_space(["model.hidden=[64,32],[8]"], load).size == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.learning_rate", "cannot read"),
        ("train.learning_rte=1,2", "did you mean 'learning_rate'"),
        ("train.learning_rate=log:0..1", "above 0"),
        ("train.learning_rate=log:1e-2..1e-4", "cannot read the range"),
        ("train.learning_rate=0.1,-1", "greater than 0"),
        ("model.parameters.cross_layer=1,2", "did you mean 'cross_layers'"),
        ("train.epochs=3", "nothing varies"),
    ],
)
def test_invalid_search_spaces_are_rejected(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_space([text], load)
