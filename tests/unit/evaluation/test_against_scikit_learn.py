"""Metrics equal scikit-learn's on the same arrays, with weights and ties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nightbid.evaluation import metrics
from nightbid.evaluation.metrics import auc, log_loss, pr_auc
from nightbid.evaluation.ranking_metrics import GroupedScores, grouped_auc, ndcg
from nightbid.evaluation.scores import ScoreTable
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

EXACT = 1e-6


def rows(seed: int, count: int, *, decimals: int | None = None):
    """Return labels, probabilities and weights; fewer decimals make more ties."""
    random = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-random.normal(-2, 1.5, count)))
    y = (random.random(count) < p).astype(float)
    y[:2] = 0, 1
    p = p if decimals is None else np.round(p, decimals)
    return y, p, random.choice([0.25, 1.0, 10.0], count)


@pytest.mark.parametrize("decimals", [None, 3, 1, 0])
@pytest.mark.parametrize("weighted", [False, True])
def test_auc_pr_auc_and_log_loss_match_scikit_learn(decimals, weighted):
    y, p, w = rows(1, 20_000, decimals=decimals)
    w = w if weighted else None
    table = ScoreTable.of(y, p, w)
    assert auc(table) == pytest.approx(reference.roc_auc_score(y, p, sample_weight=w), abs=EXACT)
    expected = reference.average_precision_score(y, p, sample_weight=w)
    assert pr_auc(table) == pytest.approx(expected, abs=EXACT)
    assert log_loss(table) == pytest.approx(reference.log_loss(y, p, sample_weight=w), abs=EXACT)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 1.0]),
            st.floats(0, 1, width=32),
            st.floats(0.015625, 100, width=32),
        ),
        min_size=2,
        max_size=60,
    ).filter(lambda triples: {label for label, _, _ in triples} == {0.0, 1.0})
)
def test_metrics_of_random_rows_match_scikit_learn(found):
    y, p, w = (np.array(column, np.float64) for column in zip(*found, strict=True))
    table = ScoreTable.of(y, p, w)
    assert log_loss(table) == pytest.approx(reference.log_loss(y, p, sample_weight=w), rel=EXACT)
    # Scores that float64 cannot tell apart as logits are ties here: rank both by the logit.
    clipped = np.clip(p, np.finfo(float).eps, 1 - np.finfo(float).eps)
    logit = np.log(clipped) - np.log1p(-clipped)
    assert auc(table) == pytest.approx(
        reference.roc_auc_score(y, logit, sample_weight=w), abs=EXACT
    )
    expected = reference.average_precision_score(y, logit, sample_weight=w)
    assert pr_auc(table) == pytest.approx(expected, abs=EXACT)


def test_calibration_and_its_curve_match_scikit_learn():
    y, p, _ = rows(3, 20_000)
    table = ScoreTable.of(y, p)
    observed, predicted = calibration_curve(y, p, n_bins=20, strategy="quantile")
    curve = metrics.calibration_curve(table)
    assert [point["observed"] for point in curve] == pytest.approx(observed, abs=EXACT)
    assert [point["predicted"] for point in curve] == pytest.approx(predicted, abs=EXACT)
    expected = np.abs(observed - predicted).mean()
    assert metrics.expected_calibration_error(table) == pytest.approx(expected, abs=EXACT)
    assert metrics.calibration(table) == pytest.approx(p.mean() / y.mean(), abs=EXACT)


def test_binned_scores_keep_auc_within_2e_4():
    y, p, w = rows(2, 60_000)
    whole, coarse = ScoreTable.of(y, p, w), ScoreTable.of(y, p, w, limit=4096)
    assert len(coarse.keys) <= 4096
    assert len(whole.keys) == 60_000
    assert log_loss(coarse) == log_loss(whole)
    assert auc(coarse) == pytest.approx(auc(whole), abs=2e-4)


@pytest.mark.parametrize("decimals", [None, 1])
def test_gauc_is_the_weighted_mean_of_user_aucs(decimals):
    y, p, w = rows(3, 3000, decimals=decimals)
    users = np.random.default_rng(4).integers(-50, 50, 3000)
    areas, weights = [], []
    for user in np.unique(users):
        of_user = users == user
        if len(set(y[of_user])) == 2:
            areas.append(reference.roc_auc_score(y[of_user], p[of_user], sample_weight=w[of_user]))
            weights.append(w[of_user].sum())
    ours = grouped_auc(GroupedScores.of(users, y, p, w))
    assert ours == pytest.approx(np.average(areas, weights=weights), abs=EXACT)


@pytest.mark.parametrize("decimals", [None, 1])
def test_ndcg_is_the_mean_over_lists_with_both_classes(decimals):
    y, p, _ = rows(5, 3000, decimals=decimals)
    lists = np.random.default_rng(6).integers(0, 200, 3000)
    per_list = [
        reference.ndcg_score([y[lists == one]], [p[lists == one]], k=5)
        for one in np.unique(lists)
        if len(set(y[lists == one])) == 2
    ]
    ours = ndcg(GroupedScores.of(lists, y, p), 5)
    assert ours == pytest.approx(np.mean(per_list), abs=EXACT)
