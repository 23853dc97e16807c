"""Metrics of predicted values, and their intervals over users."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.stats import rankdata

from nightbid.errors import DataError
from nightbid.evaluation.bootstrap import Difference, Interval, Resampling, bounds, replicate_sums
from nightbid.evaluation.metrics import CURVE_BINS, CurvePoint, known
from nightbid.evaluation.scores import Floats, Ints
from nightbid.models.values import deviances

FIGURES = ("normalized_deviance", "deviance", "gini", "mae", "rmse", "calibration")
"""Metrics with intervals."""
_BINS = 1 << 12


@dataclass(frozen=True)
class ValueRows:
    """Actual values, weights and users of rows; [rows] each."""

    values: Floats
    weights: Floats
    users: Ints

    def take(self, rows: Any) -> ValueRows:
        """Select some of the rows."""
        return ValueRows(self.values[rows], self.weights[rows], self.users[rows])

    @property
    def mean(self) -> float:
        """Weighted mean value; 0 without rows."""
        total = float(self.weights.sum())
        return float(self.weights @ self.values) / total if total else 0.0


def checked(predicted: Floats) -> Floats:
    """Return predicted values as float64.

    Raises:
        DataError: A prediction is negative or not finite.
    """
    values = np.asarray(predicted, np.float64)
    wrong = ~(np.isfinite(values) & (values >= 0))
    if wrong.any():
        where = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"a model predicted the value {values[where]} for row {where}",
            where="evaluation",
            hint="a value is a number of at least 0: check the training's loss and inputs",
        )
    return values


def figures(rows: ValueRows, predicted: Floats) -> dict[str, float | None]:
    """Compute all metrics of one model.

    `normalized_deviance` is the Tweedie deviance divided by that of the rows' own mean; `gini` is
    the Lorenz area of the values in the order of the predictions, divided by that in their own
    order; `rank_correlation` is Spearman's; `calibration` is mean prediction over mean value.

    Args:
        rows: Actual values.
        predicted: [rows] predicted values.
    """
    p, y, w = checked(predicted), rows.values, rows.weights
    total = float(w.sum())
    if not total or not rows.mean:
        return dict.fromkeys((*FIGURES, "rank_correlation"))
    deviance = float(w @ deviances(y, p)) / total
    of_mean = float(w @ deviances(y, np.full(len(y), rows.mean))) / total
    best = _gini(y, y, w)
    values = {
        "normalized_deviance": deviance / of_mean if of_mean else math.nan,
        "deviance": deviance,
        "gini": _gini(p, y, w) / best if best else math.nan,
        "mae": float(w @ np.abs(y - p)) / total,
        "rmse": math.sqrt(float(w @ (y - p) ** 2) / total),
        "calibration": float(w @ p) / float(w @ y),
        "rank_correlation": _spearman(p, y),
    }
    return {name: known(value) for name, value in values.items()}


def _spearman(p: Floats, y: Floats) -> float:
    if len(y) < 2 or np.ptp(p) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.corrcoef(rankdata(p), rankdata(y))[0, 1])


def normalized_gini(order: Floats, values: Floats) -> float:
    """Measure how well an order ranks values: 1 perfectly, 0 by chance; NaN if all are equal.

    Args:
        order: [rows] any numbers; ties are not ranked.
        values: [rows] at least 0.
    """
    even = np.ones(len(values))
    if not values.any():
        return math.nan
    best = _gini(values, values, even)
    return _gini(order, values, even) / best if best else math.nan


def _gini(order: Floats, values: Floats, weights: Floats) -> float:
    """Gini coefficient of weighted values in an order; rows with equal order form one step."""
    _, place = np.unique(order, return_inverse=True)
    mass, value = (
        np.asarray(np.bincount(place, amounts)[:, None], np.float64)
        for amounts in (weights, weights * values)
    )
    return float(_ginis(mass, value)[0])


def _ginis(mass: Floats, value: Floats) -> Floats:
    """Gini coefficient of each column; both arrays are [steps, columns], in increasing order."""
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = mass / mass.sum(axis=0), np.cumsum(value, axis=0) / value.sum(axis=0)
    before = np.vstack([np.zeros((1, y.shape[1])), y[:-1]])
    return np.asarray(1 - (x * (y + before)).sum(axis=0))


@dataclass(frozen=True)
class ValueReplicates:
    """Metrics of one model in every bootstrap replicate: name → [replicates]."""

    figures: Mapping[str, Floats]

    def interval(self, figure: str) -> Interval:
        """Return the interval of a metric."""
        low, high = bounds(self.figures[figure])
        return Interval(low=low, high=high)

    def difference(self, other: ValueReplicates, figure: str, value: float | None) -> Difference:
        """Return this model's metric minus another's on the same rows, with its paired interval."""
        low, high = bounds(self.figures[figure] - other.figures[figure])
        return Difference(value=value, low=low, high=high)


def replicate_values(
    resampling: Resampling, rows: ValueRows, models: Mapping[str, Floats]
) -> dict[str, ValueReplicates]:
    """Recompute the metrics of some models in every replicate.

    Args:
        resampling: Weights of these users, and possibly others.
        rows: Actual values.
        models: Name → predicted values, [rows].
    """
    user = np.searchsorted(resampling.users, rows.users)
    y, w, size = rows.values, rows.weights, len(resampling.users)

    def columns() -> Iterator[Floats]:
        yield from (w, w * y, w * np.sqrt(y))
        for p in models.values():
            yield from (w * deviances(y, p), w * p, w * np.abs(y - p), w * (y - p) ** 2)

    totals = replicate_sums(resampling, user, columns())
    ginis = {}
    for name, order in {"": y, **models}.items():
        mass, value = _steps(order, rows, user, size)
        ginis[name] = np.empty(resampling.weights.shape[1])
        for part, drawn in resampling.chunks():
            ginis[name][part] = _ginis(mass @ drawn, value @ drawn)
    weight, total, roots = totals[:3]
    by_model = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total / weight
        # Deviance of the constant prediction m: Σ w·4·(√y - √m)²/√m.
        of_mean = 4 * (2 * weight * np.sqrt(mean) - 2 * roots) / weight
        for at, name in enumerate(models):
            deviance, predicted, absolute, squared = totals[3 + 4 * at : 7 + 4 * at]
            by_model[name] = ValueReplicates(
                {
                    "normalized_deviance": deviance / weight / of_mean,
                    "deviance": deviance / weight,
                    "gini": ginis[name] / ginis[""],
                    "mae": absolute / weight,
                    "rmse": np.sqrt(squared / weight),
                    "calibration": predicted / total,
                }
            )
    return by_model


def _steps(
    order: Floats, rows: ValueRows, user: Ints, users: int
) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Return weight and weighted value per (step of the order, user)."""
    _, place = np.unique(order, return_inverse=True)
    size = int(place.max()) + 1 if len(place) else 0
    if size > _BINS:
        # Neighboring values share a step; the error is far below the spread of replicates.
        place, size = place * _BINS // size, _BINS
    shape = (size, users)
    return (
        sparse.csr_matrix((rows.weights, (place, user)), shape),
        sparse.csr_matrix((rows.weights * rows.values, (place, user)), shape),
    )


def value_curve(rows: ValueRows, predicted: Floats, bins: int = CURVE_BINS) -> list[CurvePoint]:
    """Group rows by prediction into groups of equal weight, with mean prediction and mean value.

    Rows with equal predictions stay in one group.
    """
    total = float(rows.weights.sum())
    if not total:
        return []
    _, place = np.unique(predicted, return_inverse=True)
    mass = np.bincount(place, rows.weights)
    middle = (np.cumsum(mass) - mass / 2) / total
    group = np.minimum((middle * bins).astype(np.int64), bins - 1)[place]
    sums = [
        np.bincount(group, rows.weights * values, minlength=bins)
        for values in (predicted, rows.values, np.ones(len(predicted)))
    ]
    return [
        CurvePoint(predicted=prediction / weight, observed=seen / weight, weight=weight)
        for prediction, seen, weight in zip(*(binned.tolist() for binned in sums), strict=True)
        if weight
    ]
