"""Boosting with labels that are not final: the elapsed-time likelihood as LightGBM's objective.

A row whose share of known positives is G is seen as positive with probability p·G. Where G is 1,
loss and gradients are those of the log loss; see `nightbid.models.network.elapsed_time_losses`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from nightbid.evaluation.scores import log_losses

Floats = npt.NDArray[np.float64]
LEAST_BEND = 1e-6
"""Second derivative at least: the likelihood of a negative bends down where p is near 1."""
TINY = 1e-7


def derivatives(logits: Floats, labels: Floats, seen: Floats) -> tuple[Floats, Floats]:
    """Differentiate −y·log(p·G) − (1−y)·log(1−p·G) by the logit of p, once and twice.

    Args:
        logits: [rows]
        labels: [rows] 0 or 1, as known so far.
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
    """Make LightGBM's objective of training rows with these shares, [rows] in their order."""
    shares = seen.astype(np.float64)

    def gradients(scores: Any, data: Any) -> tuple[Floats, Floats]:
        labels, weights = np.asarray(data.get_label()), _weights(data)
        slope, bend = derivatives(np.asarray(scores, np.float64), labels, shares)
        return slope * weights, bend * weights

    return gradients


def log_loss(scores: Any, data: Any) -> tuple[str, float, bool]:
    """LightGBM's figure of rows: their weighted log loss, by the labels as they are known."""
    weights = _weights(data)
    p = np.clip(1 / (1 + np.exp(-np.asarray(scores, np.float64))), TINY, 1 - TINY)
    losses = log_losses(np.asarray(data.get_label(), np.float64), p)
    return "binary_logloss", float(weights @ losses / weights.sum()), False


def _weights(data: Any) -> Floats:
    """[rows]; LightGBM forgets weights that are all 1."""
    found = data.get_weight()
    return np.ones(data.num_data()) if found is None else np.asarray(found, np.float64)
