"""Figures of merit from a score table: weighted, and exact.

A figure that is not defined (one class only, no rows) is NaN; `summary` makes that None.
"""

from __future__ import annotations

import math
from typing import TypedDict

import numpy as np

from nightbid.evaluation.scores import UNIT, Floats, ScoreTable
from nightbid.profile.exact import ExactSum

CURVE_BINS = 20


class Metrics(TypedDict):
    """What is said of one model on one set of rows; None where it is not defined."""

    auc: float | None
    pr_auc: float | None
    log_loss: float | None
    normalized_entropy: float | None
    calibration: float | None
    ece: float | None
    gauc: float | None
    ndcg: float | None


class CurvePoint(TypedDict):
    """Rows of similar prediction: what was predicted, and what happened."""

    predicted: float
    observed: float
    weight: float


def auc(table: ScoreTable) -> float:
    """Area under the ROC curve: the chance that a positive outranks a negative, ties half."""
    positives, negatives = table.positives / UNIT, table.negatives / UNIT
    below = np.cumsum(negatives) - negatives
    pairs = positives.sum() * negatives.sum()
    return float((positives * (below + negatives / 2)).sum() / pairs) if pairs else math.nan


def pr_auc(table: ScoreTable) -> float:
    """Average precision: sum over thresholds of the recall gained times the precision there."""
    positives, negatives = table.positives[::-1] / UNIT, table.negatives[::-1] / UNIT
    total = positives.sum()
    if not total:
        return math.nan
    true, false = np.cumsum(positives), np.cumsum(negatives)
    some = true + false > 0
    precision = true[some] / (true[some] + false[some])
    return float((positives[some] * precision).sum() / total)


def log_loss(table: ScoreTable) -> float:
    """Mean negative log likelihood, in nats."""
    return _ratio(table.total_loss, table.total_weight)


def label_rate(table: ScoreTable) -> float:
    """Weighted share of positives."""
    return _ratio(table.total_positives, table.total_weight)


def entropy(rate: float) -> float:
    """Entropy of a coin with this rate, in nats: the loss of its best constant prediction."""
    if not 0 < rate < 1:
        return 0.0 if rate in (0, 1) else math.nan
    return -(rate * math.log(rate) + (1 - rate) * math.log1p(-rate))


def normalized_entropy(table: ScoreTable) -> float:
    """Log loss over that of the rows' own base rate (He et al. 2014, "Practical lessons")."""
    best = entropy(label_rate(table))
    return log_loss(table) / best if best else math.nan


def calibration(table: ScoreTable) -> float:
    """Mean prediction over mean label: 1.1 bids ten percent too high."""
    return _ratio(table.total_predicted, table.total_positives)


def calibration_curve(table: ScoreTable, bins: int = CURVE_BINS) -> list[CurvePoint]:
    """Rows in `bins` groups of equal weight by prediction; equal scores stay together."""
    weight = (table.positives + table.negatives) / UNIT
    total = weight.sum()
    if not total:
        return []
    middle = np.cumsum(weight) - weight / 2
    group = np.minimum((middle / total * bins).astype(np.int64), bins - 1)
    sums = [
        np.bincount(group, weights=each, minlength=bins)
        for each in (table.predicted / UNIT, table.positives / UNIT, weight)
    ]
    return [
        CurvePoint(predicted=predicted / mass, observed=observed / mass, weight=mass)
        for predicted, observed, mass in zip(*(each.tolist() for each in sums), strict=True)
        if mass
    ]


def expected_calibration_error(table: ScoreTable, bins: int = CURVE_BINS) -> float:
    """Mean distance between predicted and observed over the calibration curve.

    Groups of equal weight, as Nguyen & O'Connor (2015) advise where rates are far from 1/2.
    """
    curve = calibration_curve(table, bins)
    total = sum(point["weight"] for point in curve)
    if not total:
        return math.nan
    gaps = (abs(point["predicted"] - point["observed"]) * point["weight"] for point in curve)
    return sum(gaps) / total


def summary(table: ScoreTable, gauc: float = math.nan, ndcg: float = math.nan) -> Metrics:
    """All figures of one model."""
    return Metrics(
        auc=known(auc(table)),
        pr_auc=known(pr_auc(table)),
        log_loss=known(log_loss(table)),
        normalized_entropy=known(normalized_entropy(table)),
        calibration=known(calibration(table)),
        ece=known(expected_calibration_error(table)),
        gauc=known(gauc),
        ndcg=known(ndcg),
    )


def _ratio(above: ExactSum, below: ExactSum) -> float:
    """Quotient of two exact sums; NaN where it is not defined or beyond float64."""
    divisor = below.fraction
    try:
        return float(above.fraction / divisor) if divisor else math.nan
    except OverflowError:
        return math.nan


def known(value: float) -> float | None:
    """The number, or None for one that JSON cannot hold."""
    return float(value) if math.isfinite(value) else None


def constant_scores(rate: float, rows: int) -> Floats:
    """The predictor that knows only the base rate of its training rows."""
    return np.full(rows, rate, dtype=np.float64)
