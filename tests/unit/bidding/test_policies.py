"""Off-policy estimators equal obp's results, cover the truth, and refuse bad input."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from nightbid.bidding.policies import evaluate, softmax
from nightbid.errors import DataError

# Computed once with the estimators of obp 0.5.7 on `logs()`.
OBP = {
    "dm": 0.3358045509059056,
    "ips": 0.24303634258836324,
    "snips": 0.23438976104692485,
    "dr": 0.2363641194314863,
    "sndr": 0.23990194340506246,
    "switch_dr": 0.29605014620642883,
    "dr_os": 0.30423451549633623,
}


def logs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(24)
    n, k = 2000, 5
    x = rng.normal(size=(n, 3))
    first, second = rng.normal(size=(3, k)), rng.normal(size=(3, k))
    logged, candidate = softmax(x @ first), softmax(x @ second)
    action = (logged.cumsum(1) > rng.random((n, 1))).argmax(1)
    row = np.arange(n)
    chance = 1 / (1 + np.exp(-(x @ first * 0.3 - 1)))
    reward = (rng.random(n) < chance[row, action]).astype(float)
    predicted = 1 / (1 + np.exp(-(x @ second * 0.2 - 0.8)))
    return {
        "reward": reward,
        "logged": logged[row, action],
        "candidate": candidate[row, action],
        "predicted": predicted[row, action],
        "predicted_policy": (candidate * predicted).sum(1),
    }


def test_estimators_match_obp() -> None:
    evaluation = evaluate(**logs())
    assert evaluation.estimates.keys() == OBP.keys()
    for name, expected in OBP.items():
        assert evaluation.estimates[name].value == pytest.approx(expected, abs=1e-12)
        assert evaluation.estimates[name].low < expected < evaluation.estimates[name].high


@pytest.mark.slow
def test_intervals_cover_the_true_value_in_95_percent_of_trials() -> None:
    rng = np.random.default_rng(1)
    n, k, trials = 4000, 6, 500
    first, second = rng.normal(size=(4, k)), rng.normal(size=(4, k))
    x = rng.normal(size=(200_000, 4))
    truth = float((softmax(x @ second, 2) / (1 + np.exp(-(x @ first - 2)))).sum(1).mean())
    covered: Counter[str] = Counter()
    for _ in range(trials):
        x = rng.normal(size=(n, 4))
        logged, candidate = softmax(x @ first, 2), softmax(x @ second, 2)
        chance = 1 / (1 + np.exp(-(x @ first - 2)))
        action = (logged.cumsum(1) > rng.random((n, 1))).argmax(1)
        row = np.arange(n)
        model = 0.8 * chance + 0.02
        evaluation = evaluate(
            (rng.random(n) < chance[row, action]).astype(float),
            logged[row, action],
            candidate[row, action],
            predicted=model[row, action],
            predicted_policy=(candidate * model).sum(1),
        )
        for name in ("ips", "snips", "dr", "sndr"):
            estimate = evaluation.estimates[name]
            covered[name] += estimate.low <= truth <= estimate.high
    for name, times in covered.items():
        assert 0.93 <= times / trials <= 0.97, name


def test_correlated_rows_of_one_user_widen_the_interval() -> None:
    one = logs()
    ten = {name: np.repeat(column, 10) for name, column in one.items()}
    alone = evaluate(**one)
    copied = evaluate(**ten, users=np.repeat(np.arange(2000), 10))
    for name in OBP:
        assert copied.estimates[name].low == pytest.approx(alone.estimates[name].low)
    assert evaluate(**ten).estimates["dr"].low > copied.estimates["dr"].low


def test_logs_that_support_no_estimate_are_rejected() -> None:
    given = logs()
    with pytest.raises(DataError, match="1 of 2,000 logged propensities is 0, the first in row 3"):
        evaluate(**{**given, "logged": np.where(np.arange(2000) == 3, 0, given["logged"])})
    with pytest.raises(DataError, match="1 of 2,000 values of the logged propensity is not with"):
        evaluate(**{**given, "logged": np.where(np.arange(2000) == 3, 1.2, given["logged"])})
    with pytest.raises(DataError, match="overlap too little"):
        evaluate(**{**given, "candidate": np.where(np.arange(2000) < 30, 1.0, 0.0)})
    # Percentages that were divided by 100 twice: IPS would be a hundred times too large.
    with pytest.raises(DataError, match=r"logged propensity is .*, beyond chance above 1 → a prop"):
        evaluate(**{**given, "logged": np.asarray(given["logged"]) / 100})
    for name in ("switch", "shrinkage"):
        for value in (-1.0, 0.0, float("nan")):
            with pytest.raises(DataError, match=f"{name} is {value:g} → {name} must be above 0"):
                evaluate(**{**given, name: value})
    with pytest.raises(DataError, match="only one of the two predictions"):
        evaluate(given["reward"], given["logged"], given["candidate"], predicted=given["reward"])
    with pytest.raises(DataError, match="there are no logged rows"):
        evaluate([], [], [])
