"""Field-level calibration: whether predictions add up within each value of a column.

A model can be calibrated overall, but too high on one site and too low on another; its bids then
buy the wrong impressions. The error of Pan et al. (WWW 2020), relative to the positives, is
Σ over values |Σ over rows w·(p - y)| / Σ w·y. Labels are random draws, so it is above 0 even for
the true probabilities: `chance` is its expected value for labels redrawn from the predictions, and
the error minus `chance` is what counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TypedDict

from nightbid.evaluation.scores import Floats
from nightbid.evaluation.slices import Slice


class FieldError(TypedDict):
    """Calibration error of one model on one column."""

    column: str
    values: int
    error: float
    """Absolute excess of predictions, summed over values, as a share of the positives."""
    chance: float
    """Mean error for labels redrawn from these predictions."""
    spread: float
    """Standard deviation of the error for redrawn labels."""
    beyond_chance: float
    """Error minus chance, at least 0."""


def field_calibration(
    slices: Iterable[Slice], labels: Floats, weights: Floats, scores: Mapping[str, Floats]
) -> dict[str, list[FieldError]]:
    """Measure every model on every slicing column.

    Args:
        slices: Values of the columns; the slices of one column cover all rows.
        labels: [rows] 0 or 1.
        weights: [rows] weights.
        scores: Model → [rows] probabilities.

    Returns:
        Model → one entry per column; empty if there are no positives.
    """
    columns: dict[str, list[Slice]] = {}
    for part in slices:
        columns.setdefault(part.column, []).append(part)
    positives = float(weights @ labels)
    if not positives:
        return {}
    errors: dict[str, list[FieldError]] = {}
    for name, predicted in scores.items():
        gaps = weights * (predicted - labels)
        variances = weights**2 * predicted * (1 - predicted)
        for column, parts in columns.items():
            error = sum(abs(float(gaps[part.rows].sum())) for part in parts)
            # Mean distance of a normal draw from its mean.
            drawn = sum(math.sqrt(2 / math.pi * float(variances[part.rows].sum()))
                        for part in parts)  # fmt: skip
            spread = math.sqrt((1 - 2 / math.pi) * float(variances.sum()))
            entry = FieldError(
                column=column,
                values=len(parts),
                error=error / positives,
                chance=drawn / positives,
                spread=spread / positives,
                beyond_chance=max(error - drawn, 0.0) / positives,
            )
            errors.setdefault(name, []).append(entry)
    return errors
