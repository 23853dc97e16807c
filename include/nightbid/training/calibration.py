"""Calibration after training: Platt (1999), fitted on validation rows only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nightbid.models.folder import Calibration
from nightbid.training.data import Examples

TINY = 1e-7
STEPS = 50


def platt(probabilities: npt.NDArray[np.float64], rows: Examples) -> Calibration:
    """Find the line over the logits that minimises the weighted log loss, by Newton's method.

    Args:
        probabilities: [rows], uncalibrated.
        rows: validation rows.

    Returns:
        The identity where the rows cannot tell: one class only, or equal predictions.
    """
    labels, weights = rows.labels.astype(np.float64), rows.weights.astype(np.float64)
    p = np.clip(probabilities, TINY, 1 - TINY)
    logits = np.log(p / (1 - p))
    if labels.min() == labels.max() or np.ptp(logits) < TINY:
        return Calibration()
    inputs = np.stack([logits, np.ones_like(logits)])
    line = np.array([1.0, 0.0])
    weights = weights / weights.sum()

    def loss(at: npt.NDArray[np.float64]) -> float:
        return float(weights @ (np.logaddexp(0, at @ inputs) - labels * (at @ inputs)))

    for _ in range(STEPS):
        found = 1 / (1 + np.exp(-(line @ inputs)))
        slope = inputs @ (weights * (found - labels))
        curvature = (inputs * (weights * found * (1 - found))) @ inputs.T
        step = np.linalg.solve(curvature + 1e-12 * np.eye(2), slope)
        size = 1.0
        while size > TINY and loss(line - size * step) > loss(line):
            size /= 2
        line = line - size * step
        if np.abs(size * step).max() < 1e-10:
            break
    return Calibration(slope=float(line[0]), intercept=float(line[1]))
