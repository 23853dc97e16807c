"""Metrics of predicted values equal reference implementations and known true values."""

from __future__ import annotations

import numpy as np
import pytest
from nightbid.config.evaluate import Evaluate
from nightbid.errors import DataError
from nightbid.evaluation.bootstrap import Resampling
from nightbid.evaluation.rows import EvaluationRows
from nightbid.evaluation.value_metrics import ValueRows, figures, replicate_values
from nightbid.evaluation.values import evaluate_values
from nightbid.models.values import deviances
from scipy.stats import spearmanr
from sklearn.metrics import mean_tweedie_deviance


@pytest.fixture
def rows():
    """Return values that are 0 in half of the rows, their true means, and weights."""
    draw = np.random.default_rng(1)
    mean = np.exp(draw.normal(2, 1, 6000))
    values = np.where(draw.random(6000) < 0.5, draw.gamma(2, mean), 0.0)
    weights = draw.choice([1.0, 3.0], 6000)
    return ValueRows(values, weights, draw.integers(0, 900, 6000)), mean


def test_deviance_and_rank_correlation_match_scikit_learn_and_scipy(rows):
    actual, mean = rows
    metrics = figures(actual, mean)
    deviance = mean_tweedie_deviance(actual.values, mean, sample_weight=actual.weights, power=1.5)
    assert metrics["deviance"] == pytest.approx(deviance)
    assert metrics["rank_correlation"] == pytest.approx(spearmanr(mean, actual.values).statistic)
    assert deviances(np.array([4.0]), np.array([4.0])) == 0


def test_gini_is_1_for_the_perfect_order_and_0_for_a_constant(rows):
    actual, mean = rows
    assert figures(actual, actual.values + 1)["gini"] == pytest.approx(1)
    constant = figures(actual, np.full(len(mean), actual.mean))
    assert constant["gini"] == pytest.approx(0, abs=1e-12)
    assert constant["normalized_deviance"] == pytest.approx(1)
    assert constant["calibration"] == pytest.approx(1)
    assert 0.2 < figures(actual, mean)["gini"] < 1


def test_intervals_contain_the_value_and_unit_replicates_equal_it(rows):
    actual, mean = rows
    resampling = Resampling.of(actual.users, 100, 0)
    drawn = replicate_values(resampling, actual, {"model": mean})["model"]
    for name, value in figures(actual, mean).items():
        if name in drawn.figures:
            interval = drawn.interval(name)
            assert interval["low"] < value < interval["high"], name
    once = Resampling(resampling.users, np.ones((len(resampling.users), 1), np.uint8))
    same = replicate_values(once, actual, {"model": mean})["model"]
    for name, value in same.figures.items():
        # Neighboring predictions share a step of the Lorenz curve.
        assert value[0] == pytest.approx(figures(actual, mean)[name], rel=1e-3), name


def test_value_evaluation_prefers_the_better_model(rows):
    import pyarrow as pa

    actual, mean = rows
    size = len(mean)
    judged = EvaluationRows(
        keys=np.arange(size),
        labels=actual.values,
        weights=actual.weights,
        users=actual.users,
        days=np.zeros(size, np.int64),
        truth=None,
        slices=pa.table({"half": np.arange(size) % 2}),
        scores={"candidate": mean, "baseline": np.sqrt(mean)},
    )
    settings = Evaluate(slices=("half",), bootstrap=50)
    metrics = evaluate_values(judged, settings, mean=actual.mean, seed=0)
    assert metrics["verdict"] == "better"
    assert metrics["difference"]["normalized_deviance"]["high"] < 0
    assert len(metrics["slices"]) == 2
    assert metrics["baseline"]["calibration"] < 0.5
    swapped = EvaluationRows(
        **{**vars(judged), "scores": {"candidate": np.sqrt(mean), "baseline": mean}}
    )
    assert evaluate_values(swapped, settings, mean=1.0, seed=0)["verdict"] == "worse"


def test_invalid_value_predictions_are_rejected_with_their_row(rows):
    actual, mean = rows
    mean[7] = np.nan
    with pytest.raises(DataError, match="predicted the value nan for row 7"):
        figures(actual, mean)
