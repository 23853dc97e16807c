"""A slice whose metrics are undefined or whose noise cannot be estimated is no fault."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from nightbid.config.evaluate import Evaluate
from nightbid.evaluation.rows import EvaluationRows
from nightbid.evaluation.stage import evaluate
from nightbid.evaluation.values import evaluate_values
from nightbid.gates import model

ROWS, IN_SLICE = 8000, 300
"""Rows of a night, and the rows in its slice `tv`."""


def night(labels, truth, users) -> EvaluationRows:
    platform = np.where(np.arange(ROWS) < IN_SLICE, "tv", "web")
    return EvaluationRows(
        keys=np.arange(ROWS),
        labels=labels,
        weights=np.ones(ROWS),
        users=users,
        days=np.full(ROWS, 20_000),
        truth=None,
        slices=pa.table({"platform": pa.array(platform, pa.string())}),
        scores={"candidate": truth, "baseline": truth**0.9},
    )


@pytest.fixture
def draw():
    return np.random.default_rng(5)


@pytest.mark.parametrize(("predicted", "verdict"), [(0.97, "pass"), (0.2, "stop")])
def test_a_slice_of_positives_only_stops_when_underpredicted(gate, draw, predicted, verdict):
    """Normalized entropy is undefined then; underprediction is still found."""
    users = draw.integers(0, 400, ROWS)
    truth = 1 / (1 + np.exp(1 - draw.normal(0, 1, ROWS)))
    labels = (draw.random(ROWS) < truth).astype(float)
    labels[:IN_SLICE], truth[:IN_SLICE] = 1, predicted
    metrics = evaluate(
        night(labels, truth, users), base_rate=labels.mean(), replicates=50, margin=0.002,
        ndcg_k=10, slices=("platform",), slice_values=10, seed=0,
    )  # fmt: skip
    tv = next(row for row in metrics["slices"] if row["value"] == "tv")
    assert tv["difference"]["normalized_entropy"]["value"] is None
    outcome = gate(model, {"evaluate": metrics})
    assert outcome.verdict == verdict, outcome.summary
    assert ("slice_calibration" in outcome.summary) == (verdict == "stop")


@pytest.mark.parametrize(("one_user", "verdict"), [(True, "pass"), (False, "stop")])
def test_a_slice_of_one_users_values_does_not_stop_the_model_gate(gate, draw, one_user, verdict):
    users = draw.integers(1, 400, ROWS)
    if one_user:
        users[:IN_SLICE] = 0
    truth = np.exp(draw.normal(2, 1, ROWS))
    values = np.where(draw.random(ROWS) < 0.5, draw.gamma(2, truth), 0.0)
    # They buy a quarter of what the model predicts.
    truth[:IN_SLICE] *= 4
    metrics = evaluate_values(
        night(values, truth, users),
        Evaluate(slices=("platform",), bootstrap=50),
        mean=values.mean(),
        seed=0,
    )
    outcome = gate(model, {"evaluate": metrics})
    assert outcome.verdict == verdict, outcome.summary
    assert ("slice_" in outcome.summary) == (verdict == "stop")
