"""Pipelines that predict values: errors that are reported in one line before anything runs."""

from __future__ import annotations

import pytest
from nightbid.config.pipeline import PipelineSpec
from pydantic import ValidationError

TREE = {
    "pipeline": "views",
    "label": {"kind": "value", "column": "watch_seconds"},
    "features": {"ad_id": "vocabulary"},
}


def test_value_labels_default_to_rate_calibration():
    assert PipelineSpec.model_validate(TREE).train.calibration == "rate"
    settings = {**TREE, "train": {"calibration": "none"}}
    assert PipelineSpec.model_validate(settings).train.calibration == "none"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"replay": {"value": 1}, "columns": {"price": "p"}},
            "replay is defined for labels of 0 and 1",
        ),
        ({"train": {"refit": True}}, "train.refit is defined for labels of 0 and 1"),
        ({"train": {"positive_weight": 2}}, "train.positive_weight is defined for labels of"),
        ({"train": {"calibration": "platt"}}, "train.calibration 'platt' fits probabilities"),
        ({"model": {"architecture": "esmm"}}, "'esmm' predicts probabilities only"),
        (
            {
                "model": {"architecture": "gradient_boosted_trees"},
                "label": {**TREE["label"], "distribution": "zero_inflated_lognormal"},
            },
            "one output, and zero_inflated_lognormal needs three",
        ),
        ({"label": {**TREE["label"], "distribution": "gamma"}}, "zero_inflated_lognormal"),
        ({"label": {"distribution": "zero_inflated_lognormal"}}, "is the loss of value labels"),
    ],
)
def test_settings_that_need_probabilities_are_rejected_for_value_labels(changes, message):
    with pytest.raises(ValidationError, match=message):
        PipelineSpec.model_validate({**TREE, **changes})
