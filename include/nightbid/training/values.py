"""Training on value labels: initial outputs, validation by deviance, and scaling afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from nightbid.config.pipeline import Label
from nightbid.counts import counted
from nightbid.errors import CorruptDataError
from nightbid.models.calibration import Calibration
from nightbid.models.layout import Packed
from nightbid.models.values import SMALLEST, ValueHead, deviances
from nightbid.training.data import SplitRows

Floats = npt.NDArray[np.float64]
LEAST_SPREAD = 0.05


def value_fields(label: Label, train: SplitRows) -> dict[str, Any]:
    """Create the fields of the model card that describe value outputs and their initial values.

    Args:
        label: The pipeline's `label` block.
        train: Training rows.

    Raises:
        CorruptDataError: No row has a value above 0.
    """
    # Sums of: weights; weighted values; and over values above 0 weights, logs, squared logs.
    sums, largest = np.zeros(5), 0.0
    for labels, weights in train.flags():
        y, w = labels.astype(np.float64), weights.astype(np.float64)
        some = y > 0
        logs = np.log(np.where(some, y, 1.0))
        sums += (w.sum(), w @ y, w @ some, w @ logs, w @ logs**2)
        largest = max(largest, float(y.max(initial=0.0)))
    total, value, positive, of_logs, of_squares = sums.tolist()
    if not value:
        raise CorruptDataError(
            f"the value 0 in all of {counted(len(train), 'training row')}",
            where=f"label.column {label.column}",
            hint="name a column of amounts, or widen the training window",
        )
    mean = value / total
    head = ValueHead(distribution=label.distribution, largest=math.log(largest))
    fields: dict[str, Any] = {"prior": math.log(mean), "value": head}
    if head.outputs == 3:
        middle = of_logs / positive
        spread = max(math.sqrt(max(of_squares / positive - middle**2, 0.0)), LEAST_SPREAD)
        rate = min(max(positive / total, 1e-6), 1 - 1e-6)
        fields["task_priors"] = (
            math.log(rate / (1 - rate)),
            middle,
            math.log(math.expm1(spread)),  # the inverse of softplus
        )
    return fields


def mean_deviance(score: Callable[[Packed], Floats], rows: SplitRows) -> float:
    """Compute the weighted mean Tweedie deviance of the predictions of rows."""
    total = 0.0
    for piece in rows.pieces():
        losses = deviances(piece.labels.astype(np.float64), score(piece.inputs))
        total += float(piece.weights.astype(np.float64) @ losses)
    return total / rows.weight


def scale(score: Callable[[Packed], Floats], rows: SplitRows) -> Calibration:
    """Find the factor that makes the mean prediction the mean value, as a shift of the log.

    Args:
        score: Function from model inputs to expected values, [rows].
        rows: Training rows, as served.
    """
    actual = predicted = 0.0
    for piece in rows.pieces():
        weights = piece.weights.astype(np.float64)
        actual += float(weights @ piece.labels)
        predicted += float(weights @ score(piece.inputs))
    if actual <= 0 or predicted <= SMALLEST:
        return Calibration()
    return Calibration(intercept=math.log(actual / predicted))
