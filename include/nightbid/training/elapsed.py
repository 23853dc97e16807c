"""Boosting with labels that are not final: the elapsed-time likelihood as LightGBM's objective.

If a share G of positives is known at a row's age, its label is observed as 1 with probability p·G.
If G is 1, loss and gradients are those of the log loss; see
`nightbid.models.network.elapsed_time_losses`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from nightbid.evaluation.scores import log_losses

Floats = npt.NDArray[np.float64]
LEAST_BEND = 1e-6
"""Lower bound of the second derivative: a negative's loss is concave where p is near 1."""
TINY = 1e-7


def derivatives(logits: Floats, labels: Floats, seen: Floats) -> tuple[Floats, Floats]:
    """Differentiate −y·log(p·G) − (1−y)·log(1−p·G) once and twice with respect to the logit of p.

    Args:
        logits: [rows] logits of p.
        labels: [rows] 0 or 1, as observed so far.
        seen: [rows] G, in (0, 1].

    Returns:
        First and second derivatives, float64 [rows] each; the second is kept above 0.
    """
    p = 1 / (1 + np.exp(-logits))
    spread = p * (1 - p)
    left = np.maximum(1 - p * seen, TINY)
    slope = np.where(labels > 0, p - 1, seen * spread / left)
    negative = seen * spread * ((1 - 2 * p) * left + seen * spread) / left**2
    return slope, np.where(labels > 0, spread, np.maximum(negative, LEAST_BEND))


def objective(seen: npt.NDArray[np.float32]) -> Callable[[Any, Any], tuple[Floats, Floats]]:
    """Create LightGBM's objective for training rows.

    Args:
        seen: [rows] shares G of the training rows, in the order of the dataset.
    """
    shares = seen.astype(np.float64)

    def gradients(scores: Any, data: Any) -> tuple[Floats, Floats]:
        labels, weights = np.asarray(data.get_label()), _weights(data)
        slope, bend = derivatives(np.asarray(scores, np.float64), labels, shares)
        return slope * weights, bend * weights

    return gradients


def log_loss(scores: Any, data: Any) -> tuple[str, float, bool]:
    """Evaluation metric for LightGBM: weighted log loss against the labels observed so far."""
    weights = _weights(data)
    p = np.clip(1 / (1 + np.exp(-np.asarray(scores, np.float64))), TINY, 1 - TINY)
    losses = log_losses(np.asarray(data.get_label(), np.float64), p)
    return "binary_logloss", float(weights @ losses / weights.sum()), False


def _weights(data: Any) -> Floats:
    """Return the weights, [rows]; LightGBM drops weights that are all 1."""
    weights = data.get_weight()
    return np.ones(data.num_data()) if weights is None else np.asarray(weights, np.float64)
