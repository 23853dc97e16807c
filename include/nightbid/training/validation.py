"""Metrics of a model on the validation rows, used for early stopping."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from sklearn.metrics import log_loss, roc_auc_score

from nightbid.evaluation import metrics
from nightbid.evaluation.scores import UNIT, Floats, ScoreTable
from nightbid.models.layout import Packed
from nightbid.training.data import Examples, Floats32, SplitRows
from nightbid.training.values import mean_deviance

TINY = 1e-7
AT_ONCE = 1 << 20
"""Number of scores that are sorted at once if rows stream."""
Score = Callable[[Packed], Floats]
"""Function from model inputs to probabilities, [rows]."""


class WeightedLabels(Protocol):
    """Labels and weights to compare scores with."""

    @property
    def labels(self) -> Floats32:
        """[scores], 0 or 1."""

    @property
    def weights(self) -> Floats32:
        """[scores], above 0."""

    def __len__(self) -> int:
        """Number of rows that the labels stand for."""


@dataclass(frozen=True)
class ScoreHistogram:
    """Total weights per bin of the scores, first of the positives, then of the negatives."""

    labels: Floats32
    weights: Floats32
    rows: int

    def __len__(self) -> int:
        return self.rows


@dataclass(frozen=True)
class ValidationMetrics:
    """Weighted metrics on the validation rows."""

    log_loss: float
    """Mean log loss; for value labels, the mean Tweedie deviance."""
    auc: float | None
    """AUC; None if all labels are equal, or for value labels."""


def validate(probabilities: npt.NDArray[np.float64], rows: Examples) -> ValidationMetrics:
    """Compute log loss and AUC of probabilities.

    Args:
        probabilities: [rows] predictions.
        rows: Rows with labels and weights.
    """
    labels, weights = rows.labels.astype(np.int64), rows.weights.astype(np.float64)
    clipped = np.clip(probabilities, TINY, 1 - TINY)
    loss = float(log_loss(labels, clipped, sample_weight=weights, labels=[0, 1]))
    if labels.min() == labels.max():
        return ValidationMetrics(loss, None)
    return ValidationMetrics(
        loss, float(roc_auc_score(labels, probabilities, sample_weight=weights))
    )


def validated(score: Score, rows: SplitRows, *, values: bool = False) -> ValidationMetrics:
    """Score rows and compute metrics: exact in memory, from a histogram of scores if rows stream.

    The histogram separates up to a million distinct scores and merges neighbors beyond that; its
    log loss is exact, its AUC accurate to about 1e-7. The mean deviance is always exact.

    Args:
        score: Function from model inputs to predictions.
        rows: Validation rows.
        values: Whether the labels are values, measured by their mean deviance.
    """
    if values:
        return ValidationMetrics(mean_deviance(score, rows), None)
    if isinstance(rows, Examples):
        return validate(score(rows.inputs), rows)
    table = _score_table(score, rows)
    area = metrics.auc(table)
    return ValidationMetrics(metrics.log_loss(table), None if np.isnan(area) else area)


def scored(score: Score, rows: SplitRows) -> tuple[Floats, WeightedLabels]:
    """Score rows for fitting a calibration: one entry per row in memory, per bin if they stream.

    Returns:
        Probabilities, and the labels and weights of the same entries.
    """
    if isinstance(rows, Examples):
        return score(rows.inputs), rows
    table = _score_table(score, rows)
    mass = np.maximum(table.positives + table.negatives, 1)
    mean = np.clip(table.predicted / mass, 0.0, 1.0)
    weights = np.concatenate([table.positives, table.negatives]) / UNIT
    labels = np.repeat(np.array([1.0, 0.0], np.float32), len(mean))
    present = weights > 0
    counted = ScoreHistogram(labels[present], weights[present].astype(np.float32), table.rows)
    return np.concatenate([mean, mean])[present], counted


def _score_table(score: Score, rows: SplitRows) -> ScoreTable:
    merged: ScoreTable | None = None
    waiting: list[tuple[Floats32, Floats, Floats32]] = []
    held = 0

    def counted() -> ScoreTable:
        labels, p, weights = (np.concatenate(parts) for parts in zip(*waiting, strict=True))
        table = ScoreTable.of(labels, np.clip(p, TINY, 1 - TINY), weights)
        return table if merged is None else merged.merge(table)

    for piece in rows.pieces():
        waiting.append((piece.labels, score(piece.inputs), piece.weights))
        held += len(piece)
        if held >= AT_ONCE:
            merged, waiting, held = counted(), [], 0
    return counted() if waiting or merged is None else merged
