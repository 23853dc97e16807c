"""A histogram of scores: a bounded, mergeable table that contains a whole evaluation.

A bin is a range of the logit. With at most `LIMIT` distinct scores, every score has its own bin and
all metrics are exact; with more, neighboring bins are merged in pairs. Weights are fixed-point
numbers and totals are exact sums, so results are bit-identical however the rows are split into
parts and merged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nightbid.errors import DataError
from nightbid.profile.exact import ExactSum

ZERO = ExactSum()
LIMIT = 1 << 20
PIECE = 1 << 21
"""Number of rows sorted at once; more are counted in pieces and merged, with equal results."""
UNIT = float(1 << 32)
"""Number of units per weight of 1: bins store weights as integers in units of 2^-32."""
_LARGEST = float(1 << 30)
_SMALLEST = float(np.finfo(np.float64).eps)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def clipped(probabilities: npt.ArrayLike) -> Floats:
    """Clip probabilities to one float64 epsilon from 0 and 1, as scikit-learn does; float64.

    Raises:
        DataError: A value is not a number between 0 and 1.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    wrong = ~((p >= 0) & (p <= 1))
    if wrong.any():
        where = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"a model predicted {p[where]} for row {where}",
            where="evaluation",
            hint="a probability is between 0 and 1: check the training's loss and inputs",
        )
    return np.clip(p, _SMALLEST, 1 - _SMALLEST)


def log_losses(labels: Floats, p: Floats) -> Floats:
    """Compute the log loss of each row in nats; `p` must be clipped."""
    losses: Floats = -(labels * np.log(p) + (1 - labels) * np.log1p(-p))
    return losses


def score_keys(p: Floats) -> Ints:
    """Convert scores to integers with the same order: the bits of the logit, made monotone."""
    logit = np.log(p) - np.log1p(-p)
    bits = (logit + 0.0).view(np.int64)  # + 0.0: -0.0 and 0.0 are the same score
    return np.where(bits >= 0, bits, np.int64(-(2**63)) - bits)


def fixed(weights: Floats) -> Ints:
    """Convert weights to integers in units of 2^-32.

    Raises:
        DataError: A weight is negative or not finite, or the sum would overflow.
    """
    _check(weights)
    return np.rint(weights * UNIT).astype(np.int64)


def _check(weights: Floats) -> None:
    if len(weights) and not (weights.min() >= 0 and weights.sum() < _LARGEST):
        raise DataError(
            f"weights from {weights.min()} to {weights.max()} with sum {weights.sum()}",
            where="evaluation",
            hint="weights are finite, not negative, and add up to less than 2^30",
        )


@dataclass(frozen=True)
class ScoreTable:
    """Weighted positives, negatives and predictions per bin of the logit, lowest key first."""

    keys: Ints
    """[bins] score keys shifted right by `level`, increasing."""
    positives: Ints
    """[bins] weight of the positive rows, in units of 2^-32."""
    negatives: Ints
    predicted: Ints
    """[bins] sum of weight times probability, in units of 2^-32."""
    level: int = 0
    """Number of times that neighboring bins were merged in pairs."""
    rows: int = 0
    total_positives: ExactSum = ZERO
    total_weight: ExactSum = ZERO
    total_predicted: ExactSum = ZERO
    total_loss: ExactSum = ZERO
    """Sum of weight times log loss in nats."""

    @classmethod
    def of(
        cls,
        labels: npt.ArrayLike,
        probabilities: npt.ArrayLike,
        weights: npt.ArrayLike | None = None,
        *,
        limit: int = LIMIT,
    ) -> ScoreTable:
        """Count rows.

        Args:
            labels: [rows] 0 or 1.
            probabilities: [rows] in [0, 1].
            weights: [rows] number of rows that each one stands for; None means 1.
            limit: Maximum number of bins.

        Raises:
            DataError: A probability or weight is out of range.
        """
        y = np.asarray(labels, dtype=np.float64)
        p = clipped(probabilities)
        w = np.ones_like(p) if weights is None else np.asarray(weights, dtype=np.float64)
        _check(w)
        table = cls._of_piece(y[:PIECE], p[:PIECE], w[:PIECE], limit)
        for start in range(PIECE, len(p), PIECE):
            part = slice(start, start + PIECE)
            table = table.merge(cls._of_piece(y[part], p[part], w[part], limit), limit=limit)
        return table

    @classmethod
    def _of_piece(cls, y: Floats, p: Floats, w: Floats, limit: int) -> ScoreTable:
        units = fixed(w)
        table = cls._folded(
            score_keys(p),
            np.where(y > 0.5, units, 0),
            np.where(y > 0.5, 0, units),
            np.rint(p * w * UNIT).astype(np.int64),
            0,
            limit,
        )
        ones = np.ones(len(p), np.int64)
        return cls(
            *table,
            rows=len(p),
            total_positives=ExactSum.of(w * y, ones),
            total_weight=ExactSum.of(w, ones),
            total_predicted=ExactSum.of(w * p, ones),
            total_loss=ExactSum.of(w * log_losses(y, p), ones),
        )

    def merge(self, other: ScoreTable, *, limit: int = LIMIT) -> ScoreTable:
        """Add the rows of another part."""
        level = max(self.level, other.level)
        table = self._folded(
            np.concatenate(
                [self.keys >> (level - self.level), other.keys >> (level - other.level)]
            ),
            np.concatenate([self.positives, other.positives]),
            np.concatenate([self.negatives, other.negatives]),
            np.concatenate([self.predicted, other.predicted]),
            level,
            limit,
        )
        return ScoreTable(
            *table,
            rows=self.rows + other.rows,
            total_positives=self.total_positives + other.total_positives,
            total_weight=self.total_weight + other.total_weight,
            total_predicted=self.total_predicted + other.total_predicted,
            total_loss=self.total_loss + other.total_loss,
        )

    @staticmethod
    def _folded(
        keys: Ints, positives: Ints, negatives: Ints, predicted: Ints, level: int, limit: int
    ) -> tuple[Ints, Ints, Ints, Ints, int]:
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        values = [column[order] for column in (positives, negatives, predicted)]
        starts = _starts(keys)
        # Use the smallest level at which all rows fit: a part never needs a higher level than the
        # whole, so the order of merging does not matter.
        while len(starts) > limit:
            level += 1
            keys = keys >> 1
            starts = _starts(keys)
        if len(keys) == 0:
            return keys, values[0], values[1], values[2], level
        sums = [np.add.reduceat(column, starts) for column in values]
        return keys[starts], sums[0], sums[1], sums[2], level


def _starts(keys: Ints) -> Ints:
    if len(keys) == 0:
        return np.zeros(0, np.int64)
    return np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
