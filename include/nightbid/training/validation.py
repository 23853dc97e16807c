"""How good a model is on the validation rows: figures that stop a training early."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import log_loss, roc_auc_score

from nightbid.training.data import Examples

TINY = 1e-7


@dataclass(frozen=True)
class Validation:
    """Weighted figures of the validation rows."""

    log_loss: float
    auc: float | None
    """None where all labels are equal."""


def validate(probabilities: npt.NDArray[np.float64], rows: Examples) -> Validation:
    """Measure probabilities against labels.

    Args:
        probabilities: [rows].
        rows: with labels and weights.
    """
    labels, weights = rows.labels.astype(np.int64), rows.weights.astype(np.float64)
    clipped = np.clip(probabilities, TINY, 1 - TINY)
    loss = float(log_loss(labels, clipped, sample_weight=weights, labels=[0, 1]))
    if labels.min() == labels.max():
        return Validation(loss, None)
    return Validation(loss, float(roc_auc_score(labels, probabilities, sample_weight=weights)))
