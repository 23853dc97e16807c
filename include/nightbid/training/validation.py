"""How good a model is on the validation rows: figures that stop a training early."""

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
from nightbid.training.data import Examples, Floats32, Rows
from nightbid.training.values import mean_deviance

TINY = 1e-7
AT_ONCE = 1 << 20
"""Scores that are sorted together when rows stream."""
Score = Callable[[Packed], Floats]
"""Model inputs to probabilities, [rows]."""


class Labels(Protocol):
    """Labels and weights to compare scores with."""

    @property
    def labels(self) -> Floats32:
        """[scores], 0 or 1."""

    @property
    def weights(self) -> Floats32:
        """[scores], above 0."""

    def __len__(self) -> int:
        """Number of rows they stand for."""


@dataclass(frozen=True)
class Counted:
    """Weights of the positives, then of the negatives, of each bin of the scores."""

    labels: Floats32
    weights: Floats32
    rows: int

    def __len__(self) -> int:
        return self.rows


@dataclass(frozen=True)
class Validation:
    """Weighted figures of the validation rows."""

    log_loss: float
    """Of values: the mean Tweedie deviance."""
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


def validated(score: Score, rows: Rows, *, values: bool = False) -> Validation:
    """Score rows and measure: exactly in memory, by a histogram of the scores where they stream.

    The histogram keeps a million distinct scores apart and joins neighbors beyond; its log loss is
    exact, its AUC to some 1e-7. Of `values`, the mean deviance is exact either way.
    """
    if values:
        return Validation(mean_deviance(score, rows), None)
    if isinstance(rows, Examples):
        return validate(score(rows.inputs), rows)
    table = _score_table(score, rows)
    area = metrics.auc(table)
    return Validation(metrics.log_loss(table), None if np.isnan(area) else area)


def scored(score: Score, rows: Rows) -> tuple[Floats, Labels]:
    """Score rows for fitting a calibration: row by row in memory, bin by bin where they stream.

    Returns:
        Probabilities, and the labels and weights that belong to them.
    """
    if isinstance(rows, Examples):
        return score(rows.inputs), rows
    table = _score_table(score, rows)
    mass = np.maximum(table.positives + table.negatives, 1)
    mean = np.clip(table.predicted / mass, 0.0, 1.0)
    weights = np.concatenate([table.positives, table.negatives]) / UNIT
    labels = np.repeat(np.array([1.0, 0.0], np.float32), len(mean))
    kept = weights > 0
    counted = Counted(labels[kept], weights[kept].astype(np.float32), table.rows)
    return np.concatenate([mean, mean])[kept], counted


def _score_table(score: Score, rows: Rows) -> ScoreTable:
    found: ScoreTable | None = None
    waiting: list[tuple[Floats32, Floats, Floats32]] = []
    held = 0

    def counted() -> ScoreTable:
        labels, p, weights = (np.concatenate(each) for each in zip(*waiting, strict=True))
        table = ScoreTable.of(labels, np.clip(p, TINY, 1 - TINY), weights)
        return table if found is None else found.merge(table)

    for piece in rows.pieces():
        waiting.append((piece.labels, score(piece.inputs), piece.weights))
        held += len(piece)
        if held >= AT_ONCE:
            found, waiting, held = counted(), [], 0
    return counted() if waiting or found is None else found
