"""Bootstrap intervals over users cover the truth and compare two models on the same users."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nightbid.evaluation.bootstrap import FIGURES, Resampling, bounds, replicate
from nightbid.evaluation.metrics import summary
from nightbid.evaluation.scores import ScoreTable

REPLICATES = 100


def night(seed: int, users: int = 300, each: int = 10, spread: float = 1.0):
    """Make rows of users with different click rates, so that rows of a user are correlated."""
    random = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), each)
    keen = random.normal(0, spread, users)[user]
    relevance = random.normal(0, 1, len(user))
    truth = 1 / (1 + np.exp(-(-1 + keen + relevance)))
    labels = (random.random(len(user)) < truth).astype(float)
    guess = 1 / (1 + np.exp(-(-1 + relevance)))
    return user.astype(np.int64), labels, guess, truth


def bootstrap(user, labels, models, *, weights=None, seed=0, replicates=REPLICATES):
    weights = np.ones(len(labels)) if weights is None else weights
    return replicate(Resampling.of(user, replicates, seed), labels, weights, user, models)


def test_identical_models_have_a_zero_difference_and_interval():
    user, labels, guess, _ = night(0)
    draws = bootstrap(user, labels, {"a": guess, "b": guess.copy()})
    for figure in FIGURES:
        assert draws["a"].difference(draws["b"], figure, 0.0) == {
            "value": 0.0, "low": 0.0, "high": 0.0}  # fmt: skip


def test_paired_intervals_detect_a_better_model_when_levels_overlap():
    user, labels, guess, truth = night(1)
    near = 0.8 * guess + 0.2 * truth
    draws = bootstrap(user, labels, {"near": near, "guess": guess})
    levels = [draws[name].interval("normalized_entropy") for name in ("near", "guess")]
    assert levels[0]["high"] > levels[1]["low"], "the levels' intervals overlap"
    apart = draws["near"].difference(draws["guess"], "normalized_entropy", -0.1)
    assert apart["high"] < 0, "and yet the paired difference is clear"
    assert apart["high"] - apart["low"] < (levels[0]["high"] - levels[0]["low"]) / 2


@pytest.mark.slow
@pytest.mark.parametrize("figure", ["log_loss", "auc", "calibration"])
def test_intervals_cover_the_metric_of_the_population(figure):
    whole = night(99, users=40_000)
    truth = summary(ScoreTable.of(whole[1], whole[2]))[figure]
    inside = 0
    for seed in range(60):
        user, labels, guess, _ = night(seed)
        interval = bootstrap(user, labels, {"m": guess}, seed=seed)["m"].interval(figure)
        inside += interval["low"] <= truth <= interval["high"]
    # 95% of 60 is 57; fewer than 50 has a chance below one in ten thousand.
    assert inside >= 50, inside


def test_resampling_users_widens_intervals_of_correlated_rows():
    user, labels, guess, _ = night(3, users=200, each=20, spread=2.0)
    by_user = bootstrap(user, labels, {"m": guess})["m"].interval("log_loss")
    alone = np.arange(len(user), dtype=np.int64)
    by_row = bootstrap(alone, labels, {"m": guess})["m"].interval("log_loss")
    assert by_user["high"] - by_user["low"] > 1.5 * (by_row["high"] - by_row["low"])


@settings(max_examples=30)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=40), st.integers(0, 2**32))
def test_draws_of_a_user_do_not_depend_on_other_users(users, seed):
    users = np.array(users, np.int64)
    whole = Resampling.of(users, 8, seed)
    part = Resampling.of(users[: len(users) // 2 + 1], 8, seed)
    at = np.searchsorted(whole.users, part.users)
    np.testing.assert_array_equal(whole.weights[at], part.weights)


def test_bootstrap_weights_are_poisson_with_mean_1():
    weights = Resampling.of(np.arange(20_000), 20, 7).weights
    assert weights.mean() == pytest.approx(1.0, abs=0.01)
    assert weights.var() == pytest.approx(1.0, abs=0.02)
    assert (weights == 0).mean() == pytest.approx(np.exp(-1), abs=0.005)
    assert abs(np.corrcoef(weights[:, 0], weights[:, 1])[0, 1]) < 0.03
    assert abs(np.corrcoef(weights[:-1, 0], weights[1:, 0])[0, 1]) < 0.03


def test_a_replicate_equals_the_metric_of_the_drawn_rows():
    user, labels, guess, _ = night(5, users=40)
    weights = np.random.default_rng(0).choice([1.0, 4.0], len(user))
    resampling = Resampling.of(user, 5, 0)
    draw = replicate(resampling, labels, weights, user, {"m": guess})["m"]
    for at in range(5):
        times = resampling.weights[np.searchsorted(resampling.users, user), at]
        exact = summary(ScoreTable.of(labels, guess, weights * times))
        for figure in FIGURES:
            assert getattr(draw, figure)[at] == pytest.approx(exact[figure], abs=1e-6), figure


def test_undefined_metrics_have_no_interval():
    one = np.zeros(5, np.int64)
    draw = bootstrap(one, np.array([1.0, 0, 0, 0, 0]), {"m": np.full(5, 0.2)})["m"]
    assert draw.interval("auc") == {
        "low": None,
        "high": None,
    }  # a third of the replicates draw no user
    negatives = bootstrap(np.arange(50), np.zeros(50), {"m": np.full(50, 0.2)})["m"]
    assert negatives.interval("auc") == {"low": None, "high": None}
    assert negatives.interval("normalized_entropy") == {"low": None, "high": None}
    assert negatives.interval("log_loss")["low"] == pytest.approx(-np.log(0.8))
    assert bounds(np.array([])) == (None, None)
