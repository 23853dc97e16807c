"""Exact weighted metrics from a score table.

An undefined metric (a single class, no rows) is NaN; `summary` converts it to None.
"""

from __future__ import annotations

import math
from typing import TypedDict

import numpy as np

from nightbid.evaluation.scores import UNIT, Floats, ScoreTable
from nightbid.profile.exact import ExactSum

CURVE_BINS = 20


class Metrics(TypedDict):
    """Metrics of one model on one set of rows; None if undefined."""

    auc: float | None
    pr_auc: float | None
    log_loss: float | None
    normalized_entropy: float | None
    calibration: float | None
    ece: float | None
    gauc: float | None
    ndcg: float | None


class CurvePoint(TypedDict):
    """A group of rows with similar predictions: mean prediction, label rate, and weight."""

    predicted: float
    observed: float
    weight: float


def auc(table: ScoreTable) -> float:
    """Area under the ROC curve: probability that a positive outranks a negative, ties half."""
    positives, negatives = table.positives / UNIT, table.negatives / UNIT
    below = np.cumsum(negatives) - negatives
    pairs = positives.sum() * negatives.sum()
    return float((positives * (below + negatives / 2)).sum() / pairs) if pairs else math.nan


def pr_auc(table: ScoreTable) -> float:
    """Average precision: sum over thresholds of the gain in recall times the precision."""
    positives, negatives = table.positives[::-1] / UNIT, table.negatives[::-1] / UNIT
    total = positives.sum()
    if not total:
        return math.nan
    true, false = np.cumsum(positives), np.cumsum(negatives)
    some = true + false > 0
    precision = true[some] / (true[some] + false[some])
    return float((positives[some] * precision).sum() / total)


def log_loss(table: ScoreTable) -> float:
    """Mean negative log likelihood in nats."""
    return _ratio(table.total_loss, table.total_weight)


def label_rate(table: ScoreTable) -> float:
    """Weighted share of positives."""
    return _ratio(table.total_positives, table.total_weight)


def entropy(rate: float) -> float:
    """Entropy of a Bernoulli variable in nats: the loss of the best constant prediction."""
    if not 0 < rate < 1:
        return 0.0 if rate in (0, 1) else math.nan
    return -(rate * math.log(rate) + (1 - rate) * math.log1p(-rate))


def normalized_entropy(table: ScoreTable) -> float:
    """Log loss divided by that of the rows' own base rate (He et al. 2014, "Practical lessons")."""
    best = entropy(label_rate(table))
    return log_loss(table) / best if best else math.nan


def calibration(table: ScoreTable) -> float:
    """Mean prediction divided by mean label: with 1.1, bids are ten percent too high."""
    return _ratio(table.total_predicted, table.total_positives)


def calibration_curve(table: ScoreTable, bins: int = CURVE_BINS) -> list[CurvePoint]:
    """Group rows by prediction into `bins` groups of equal weight; equal scores stay together."""
    weight = (table.positives + table.negatives) / UNIT
    total = weight.sum()
    if not total:
        return []
    middle = np.cumsum(weight) - weight / 2
    group = np.minimum((middle / total * bins).astype(np.int64), bins - 1)
    sums = [
        np.bincount(group, weights=values, minlength=bins)
        for values in (table.predicted / UNIT, table.positives / UNIT, weight)
    ]
    return [
        CurvePoint(predicted=predicted / mass, observed=observed / mass, weight=mass)
        for predicted, observed, mass in zip(*(binned.tolist() for binned in sums), strict=True)
        if mass
    ]


def expected_calibration_error(table: ScoreTable, bins: int = CURVE_BINS) -> float:
    """Mean distance between prediction and label rate over the calibration curve.

    Groups have equal weight, as Nguyen & O'Connor (2015) advise for rates far from 1/2.
    """
    curve = calibration_curve(table, bins)
    total = sum(point["weight"] for point in curve)
    if not total:
        return math.nan
    gaps = (abs(point["predicted"] - point["observed"]) * point["weight"] for point in curve)
    return sum(gaps) / total


def summary(table: ScoreTable, gauc: float = math.nan, ndcg: float = math.nan) -> Metrics:
    """Return all metrics of one model."""
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
    """Return the quotient of two exact sums; NaN if undefined or outside float64's range."""
    divisor = below.fraction
    try:
        return float(above.fraction / divisor) if divisor else math.nan
    except OverflowError:
        return math.nan


def known(value: float) -> float | None:
    """Return the number, or None if JSON cannot represent it."""
    return float(value) if math.isfinite(value) else None


def constant_scores(rate: float, rows: int) -> Floats:
    """Return predictions of a constant model, the base rate of the training rows; [rows]."""
    return np.full(rows, rate, dtype=np.float64)
