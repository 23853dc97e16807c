"""Calibration after training: Platt (1999) or isotonic on validation rows, or the rate alone.

Also the correction that needs no fitting: it undoes the sampling of negatives if training ignored
their weights.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.isotonic import isotonic_regression

from nightbid.config.models import Train
from nightbid.errors import ConfigError
from nightbid.models.calibration import Calibration
from nightbid.models.layout import Layout
from nightbid.training.data import Examples, Floats32, SplitRows, every_so_many
from nightbid.training.validation import WeightedLabels

Floats = npt.NDArray[np.float64]
TINY = 1e-7
STEPS = 50
MOST_SHIFT = 20.0
RATE_ROWS = 200_000
"""Maximum number of training rows that are scored to fit the rate."""
BINS = 64
"""Number of groups of validation rows, of equal weight, that an isotonic curve is fitted to."""


def platt(probabilities: npt.NDArray[np.float64], rows: WeightedLabels) -> Calibration:
    """Fit a line over the logits that minimizes the weighted log loss, by Newton's method.

    Args:
        probabilities: [rows] uncalibrated predictions.
        rows: Validation rows.

    Returns:
        The calibration; the identity if all labels or all predictions are equal.
    """
    columns = _telling(probabilities, rows)
    if columns is None:
        return Calibration()
    logits, labels, weights = columns
    inputs = np.stack([logits, np.ones_like(logits)])
    line = np.array([1.0, 0.0])
    weights = weights / weights.sum()

    def loss(at: npt.NDArray[np.float64]) -> float:
        return float(weights @ (np.logaddexp(0, at @ inputs) - labels * (at @ inputs)))

    for _ in range(STEPS):
        predicted = 1 / (1 + np.exp(-(line @ inputs)))
        slope = inputs @ (weights * (predicted - labels))
        curvature = (inputs * (weights * predicted * (1 - predicted))) @ inputs.T
        step = np.linalg.solve(curvature + 1e-12 * np.eye(2), slope)
        size = 1.0
        while size > TINY and loss(line - size * step) > loss(line):
            size /= 2
        line = line - size * step
        if np.abs(size * step).max() < 1e-10:
            break
    return Calibration(slope=float(line[0]), intercept=float(line[1]))


def isotonic(probabilities: npt.NDArray[np.float64], rows: WeightedLabels) -> Calibration:
    """Fit an increasing curve to the label rates of groups of rows with similar predictions.

    Rows are grouped by prediction into groups of equal weight, and adjacent violators are pooled
    until the rates increase (Zadrozny & Elkan, 2002; scikit-learn's solver). The curve connects the
    pools with straight lines over logits, so it increases strictly: unlike a step function, it
    creates no ties.

    Args:
        probabilities: [rows] uncalibrated predictions.
        rows: Validation rows.

    Returns:
        The calibration; the identity if all labels or all predictions are equal.
    """
    columns = _telling(probabilities, rows)
    if columns is None:
        return Calibration()
    logits, labels, weights = columns
    # Rows with equal predictions stay in one group: they are one point of the curve.
    _, point = np.unique(logits, return_inverse=True)
    point_weights = np.bincount(point, weights)
    share = (np.cumsum(point_weights) - point_weights / 2) / weights.sum()
    group = np.minimum((share * BINS).astype(np.int64), BINS - 1)[point]

    def sums(values: npt.NDArray[np.float64], by: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        return np.asarray(np.bincount(by, values), np.float64)

    mass = sums(weights, group)
    filled = mass > 0  # many equal rows may span groups
    mass = mass[filled]
    centers = sums(weights * logits, group)[filled] / mass
    positives = sums(weights * labels, group)[filled]
    # Add one row at the overall rate to each group, so that no rate is exactly 0 or 1.
    rate = float(weights @ labels / weights.sum())
    typical = weights.sum() / len(rows)
    rates = isotonic_regression((positives + typical * rate) / (mass + typical), sample_weight=mass)
    pool = np.cumsum(np.concatenate([[0], np.diff(rates) > TINY]).astype(np.int64))
    pooled = sums(mass, pool)
    x, y = sums(mass * centers, pool) / pooled, logits_of(sums(mass * rates, pool) / pooled)
    apart = np.concatenate([[True], (np.diff(x) > TINY) & (np.diff(y) > TINY)])
    return Calibration(knots=tuple(zip(x[apart].tolist(), y[apart].tolist(), strict=True)))


def rate(probabilities: npt.NDArray[np.float64], rows: WeightedLabels) -> Calibration:
    """Find the shift of all logits that makes the mean prediction equal to the label rate.

    A network that is served without its position predicts too low: the weights of positions sum
    to about 0 over positions, not over rows, and the top positions have most rows. Averaged weights
    predict too low as well, because their tables lag behind the bias. Neither shows in the training
    loss.

    Args:
        probabilities: [rows] predictions as served, with training-only inputs constant.
        rows: Training rows.

    Returns:
        The calibration; the identity if all labels are equal.
    """
    labels, weights = rows.labels.astype(np.float64), rows.weights.astype(np.float64)
    if labels.min() == labels.max():
        return Calibration()
    return Calibration(intercept=shift_to_rate(logits_of(probabilities), labels, weights))


def shift_to_rate(logits: Floats, labels: Floats, weights: Floats) -> float:
    """Find the shift of logits that makes the mean prediction the label rate; inputs are [rows]."""
    weights = weights / weights.sum()
    positives = float(weights @ labels)
    low, high = -MOST_SHIFT, MOST_SHIFT
    for _ in range(STEPS):  # bisection: the mean increases with the shift
        middle = (low + high) / 2
        if float(weights @ (1 / (1 + np.exp(-logits - middle)))) < positives:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def as_served(rows: SplitRows, layout: Layout) -> Examples:
    """Copy at most `RATE_ROWS` training rows, evenly spaced, with training-only inputs blank.

    Args:
        rows: Training rows with all their inputs.
        layout: The model's inputs.
    """
    some = every_so_many(rows, RATE_ROWS)
    some.inputs.ids[:, layout.training_only_places] = 0
    some.inputs.numbers[:, layout.training_only_numbers] = 0
    return some


FITTERS = {"platt": platt, "isotonic": isotonic, "rate": rate, "by_slice": rate}
"""Function that fits the line or curve; `by_slice` adds offsets (`nightbid.training.by_slice`)."""
ON_TRAINING_ROWS = ("rate", "by_slice")


def learned_as(train: SplitRows, settings: Train) -> tuple[SplitRows, Calibration]:
    """Weight training rows as the pipeline asks, and return the logit shift that undoes it.

    A negative is kept with probability w and trained without its weight 1/w: the odds are too high
    by a factor of 1/w, so q = p / (p + (1 - p)/w) (He et al. 2014, "Practical lessons", section
    6.3). If a positive counts c times, the odds are too high by a factor of c. Both are a shift of
    the logit: log w - log c.

    Returns:
        The rows with their new weights, and the calibration that undoes the weights.

    Raises:
        ConfigError: The rows' weights are not those of sampled negatives.
    """
    shift = 0.0
    if settings.sampling_correction:
        kinds = _weights_by_label(train)
        if max(map(len, kinds)) > 1:
            raise ConfigError(
                "weights differ among rows of the same label, so no formula undoes the sampling",
                where="train.sampling_correction",
                hint="set it to false: the weights are learned with",
            )
        if min(map(len, kinds)):
            of_positives, of_negatives = (np.float64(weights[0]) for weights in kinds)
            shift -= float(np.log(of_negatives / of_positives))
    if settings.positive_weight != 1:
        shift -= float(np.log(settings.positive_weight))

    def weigh(labels: Floats32, weights: Floats32) -> Floats32:
        if settings.sampling_correction:
            weights = np.ones_like(weights)
        if settings.positive_weight != 1:
            weights = np.where(labels == 1, weights * np.float32(settings.positive_weight), weights)
        return weights

    return train.weighed(weigh), Calibration(intercept=shift)


def _weights_by_label(rows: SplitRows) -> list[Floats32]:
    """Return the distinct weights of the positives, and those of the negatives.

    Stops early as soon as one of the two has several, so the lists may be incomplete.
    """
    distinct = [np.zeros(0, np.float32), np.zeros(0, np.float32)]
    for labels, weights in rows.flags():
        for at, mask in enumerate((labels == 1, labels != 1)):
            distinct[at] = np.unique(np.concatenate([distinct[at], weights[mask]]))
        if max(map(len, distinct)) > 1:
            break
    return distinct


def _telling(
    probabilities: npt.NDArray[np.float64], rows: WeightedLabels
) -> tuple[npt.NDArray[np.float64], ...] | None:
    """Logits, labels and weights, [rows] each; None if all labels or all logits are equal."""
    labels, logits = rows.labels.astype(np.float64), logits_of(probabilities)
    if labels.min() == labels.max() or np.ptp(logits) < TINY:
        return None
    return logits, labels, rows.weights.astype(np.float64)


def logits_of(probabilities: Floats) -> Floats:
    """Compute log odds, [rows], of probabilities clipped away from 0 and 1."""
    p = np.clip(probabilities, TINY, 1 - TINY)
    return np.log(p / (1 - p))
