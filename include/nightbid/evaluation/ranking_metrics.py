"""Metrics within groups: AUC per user, and NDCG of ranked lists.

A global AUC also rewards telling active users from others, which does not help to rank for any of
them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from nightbid.evaluation.scores import Floats, Ints, clipped, score_keys


@dataclass(frozen=True)
class GroupedScores:
    """Rows per group and distinct score; groups in order, best score first. Mergeable."""

    groups: Ints
    """[entries] group of each entry, increasing."""
    keys: Ints
    """[entries] score key, decreasing within a group."""
    positives: Floats
    """[entries] weight of the positive rows."""
    negatives: Floats
    hits: Ints
    """[entries] unweighted number of positive rows, as lists show them."""
    rows: Ints

    @classmethod
    def of(
        cls,
        groups: npt.ArrayLike,
        labels: npt.ArrayLike,
        probabilities: npt.ArrayLike,
        weights: npt.ArrayLike | None = None,
    ) -> GroupedScores:
        """Count rows, all [rows]; groups are int64, labels 0 or 1, probabilities in [0, 1]."""
        p = clipped(probabilities)
        positive = np.asarray(labels, dtype=np.float64) > 0.5
        w = np.ones_like(p) if weights is None else np.asarray(weights, dtype=np.float64)
        return cls._folded(
            np.asarray(groups, dtype=np.int64),
            score_keys(p),
            np.where(positive, w, 0.0),
            np.where(positive, 0.0, w),
            positive.astype(np.int64),
            np.ones(len(p), np.int64),
        )

    def merge(self, other: GroupedScores) -> GroupedScores:
        """Add the rows of another part, which may contain the same groups."""
        return self._folded(
            *(
                np.concatenate([getattr(self, name), getattr(other, name)])
                for name in ("groups", "keys", "positives", "negatives", "hits", "rows")
            )
        )

    @classmethod
    def _folded(
        cls, groups: Ints, keys: Ints, positives: Floats, negatives: Floats, hits: Ints, rows: Ints
    ) -> GroupedScores:
        order = np.lexsort((~keys, groups))
        groups, keys = groups[order], keys[order]
        if len(groups) == 0:
            return cls(groups, keys, positives, negatives, hits, rows)
        change = (groups[1:] != groups[:-1]) | (keys[1:] != keys[:-1])
        starts = np.flatnonzero(np.concatenate([[True], change]))
        return cls(
            groups[starts],
            keys[starts],
            *(
                np.add.reduceat(counts[order], starts)
                for counts in (positives, negatives, hits, rows)
            ),
        )

    def _segments(self) -> tuple[Ints, Ints]:
        """Return the first entry of each group, and each entry's index of its group."""
        first = np.concatenate([[True], self.groups[1:] != self.groups[:-1]])
        return np.flatnonzero(first), np.cumsum(first) - 1


def grouped_auc(scores: GroupedScores) -> float:
    """GAUC: AUC within each group that has both classes, averaged by the groups' weights.

    Zhou et al. 2018, "Deep interest network", weight by impressions.
    """
    if len(scores.groups) == 0:
        return math.nan
    starts, index = scores._segments()
    positives = np.add.reduceat(scores.positives, starts)
    negatives = np.add.reduceat(scores.negatives, starts)
    above = _running(scores.negatives, starts, index)
    # Best first: a positive outranks the negatives that come after it.
    won = scores.positives * (negatives[index] - above - scores.negatives / 2)
    both = (positives > 0) & (negatives > 0)
    if not both.any():
        return math.nan
    areas = np.add.reduceat(won, starts)[both] / (positives * negatives)[both]
    return float(np.average(areas, weights=(positives + negatives)[both]))


def ndcg(scores: GroupedScores, k: int) -> float:
    """Normalized discounted cumulative gain of the first `k` rows; ties average over their orders.

    Järvelin & Kekäläinen 2002, with gain 1 for a positive. Each list counts once, and only if it
    contains both classes, since any order of a single class is right. Rows count as logged, without
    weights: a negative that stands for ten took one place in the list.
    """
    if len(scores.groups) == 0:
        return math.nan
    starts, index = scores._segments()
    hits, rows = np.add.reduceat(scores.hits, starts), np.add.reduceat(scores.rows, starts)
    some = (hits > 0) & (hits < rows)
    if not some.any():
        return math.nan
    discount = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(k) + 2))])
    before = _running(scores.rows, starts, index)
    after = before + scores.rows
    mean = (discount[np.minimum(after, k)] - discount[np.minimum(before, k)]) / scores.rows
    gained = np.add.reduceat(scores.hits * mean, starts)
    best = discount[np.minimum(hits, k)]
    return float((gained[some] / best[some]).mean())


Number = TypeVar("Number", np.float64, np.int64)


def _running(values: npt.NDArray[Number], starts: Ints, index: Ints) -> npt.NDArray[Number]:
    """Return for each entry the sum of its group's earlier entries."""
    before = np.cumsum(values) - values
    return before - before[starts][index]
