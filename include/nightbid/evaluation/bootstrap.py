"""Bootstrap intervals over users instead of rows: one user's clicks are not independent.

Each replicate gives every user a Poisson(1) weight that depends only on the user's hash, the seed
and the replicate's number. Any part of the rows, any slice and any model sees the same replicates,
so differences between models are paired.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt
from scipy import sparse

from nightbid.evaluation.scores import Floats, Ints, clipped, log_losses, score_keys

CONFIDENCE = 0.95
_POISSON = np.cumsum([math.exp(-1) / math.factorial(count) for count in range(12)])
_BINS = 1 << 14
_CHOOSES = np.uint64(0x6E69676874626964)
"""Seed that makes the choice of users independent of their weights in the replicates."""
_CHUNK = 16
"""Number of replicates processed at once, so that their histograms fit in the processor's cache."""

FIGURES = ("auc", "log_loss", "normalized_entropy", "calibration")


class Interval(TypedDict):
    """Bounds of the middle 95% of replicates; None if too few replicates are defined."""

    low: float | None
    high: float | None


class Difference(TypedDict):
    """A difference with its interval."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Resampling:
    """Weights of each user in each replicate."""

    users: Ints
    """[users], distinct and increasing."""
    weights: npt.NDArray[np.uint8]
    """[users, replicates] number of times that a replicate contains the user."""

    @classmethod
    def of(cls, users: Ints, replicates: int, seed: int) -> Resampling:
        """Draw the weights.

        Args:
            users: [rows] or [users] int64 hashes; duplicates count once.
            replicates: Number of replicates.
            seed: Seed of the weights.
        """
        distinct = np.unique(users)
        hashed = _mixed(distinct.view(np.uint64) + _mixed(np.uint64(seed)))
        weights = np.empty((len(distinct), replicates), np.uint8)
        for replicate in range(replicates):
            mixed = _mixed(hashed ^ _mixed(np.uint64(replicate + 1)))
            uniform = (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
            weights[:, replicate] = np.searchsorted(_POISSON, uniform, side="right")
        return cls(distinct, weights)

    def chunks(self) -> Iterator[tuple[slice, Floats]]:
        """Yield some replicates at a time: their numbers and weights, [users, replicates]."""
        for start in range(0, self.weights.shape[1], _CHUNK):
            part = slice(start, start + _CHUNK)
            yield part, self.weights[:, part].astype(np.float64)


def _mixed(value: npt.NDArray[np.uint64] | np.uint64) -> npt.NDArray[np.uint64]:
    """Hash with splitmix64 (Steele et al. 2014): every output bit depends on every input bit."""
    mixed = np.atleast_1d(np.asarray(value, np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def share_of_users(users: Ints, share: float) -> npt.NDArray[np.bool_]:
    """Select a share of the users by hash: the same ones every night; a larger share includes them.

    Args:
        users: [rows] int64 hashes.
        share: Share of the users, 0 to 1.

    Returns:
        [rows] whether the row's user is selected.
    """
    drawn = _mixed(users.view(np.uint64) ^ _mixed(_CHOOSES)) >> np.uint64(11)
    return np.asarray(drawn.astype(np.float64) * 2.0**-53 < share)


@dataclass(frozen=True)
class Replicates:
    """Metrics of one model in every replicate: [replicates] each, NaN if undefined."""

    auc: Floats
    log_loss: Floats
    normalized_entropy: Floats
    calibration: Floats

    def interval(self, figure: str) -> Interval:
        """Return the interval of a metric."""
        low, high = bounds(getattr(self, figure))
        return Interval(low=low, high=high)

    def difference(self, other: Replicates, figure: str, value: float | None) -> Difference:
        """Return this model's metric minus another's on the same rows, with its paired interval."""
        low, high = bounds(getattr(self, figure) - getattr(other, figure))
        return Difference(value=value, low=low, high=high)


def bounds(values: Floats) -> tuple[float | None, float | None]:
    """Return the middle 95% of replicates; None if over 10% are undefined (one user or class)."""
    defined = values[np.isfinite(values)]
    if len(defined) < max(2, 0.9 * len(values)):
        return None, None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def replicate(
    resampling: Resampling,
    labels: Floats,
    weights: Floats,
    users: Ints,
    models: Mapping[str, Floats],
) -> dict[str, Replicates]:
    """Recompute the metrics of some models in every replicate.

    Args:
        resampling: Weights of these users, and possibly others.
        labels: [rows] 0 or 1.
        weights: [rows] weights.
        users: [rows] int64 hashes.
        models: Name → probabilities, [rows].
    """
    user = np.searchsorted(resampling.users, users).astype(np.int32)
    positive, size = weights * labels, len(resampling.users)

    def columns() -> Iterator[Floats]:
        yield positive
        yield weights
        for scores in models.values():
            p = clipped(scores)
            yield weights * log_losses(labels, p)
            yield weights * p

    totals = replicate_sums(resampling, user, columns())
    areas = {}
    for name, scores in models.items():
        histograms = _histograms(positive, weights - positive, user, clipped(scores), size)
        areas[name] = np.empty(resampling.weights.shape[1])
        for part, drawn in resampling.chunks():
            areas[name][part] = _areas(*(histogram @ drawn for histogram in histograms))
        # Two models' histograms at once would be as large as the rows.
        del histograms
    positives, weight = totals[:2]
    by_model: dict[str, Replicates] = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = positives / weight
        best = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
        for at, name in enumerate(models):
            loss, predicted = totals[2 + 2 * at : 4 + 2 * at]
            by_model[name] = Replicates(
                auc=areas[name],
                log_loss=loss / weight,
                normalized_entropy=loss / weight / best,
                calibration=predicted / positives,
            )
    return by_model


def replicate_sums(
    resampling: Resampling, user: npt.NDArray[np.integer], columns: Iterable[Floats]
) -> Floats:
    """Sum columns in every replicate.

    Args:
        resampling: Weights of the users.
        user: [rows] number of each row's user in `resampling`.
        columns: [rows] each, taken one at a time, because each is as large as the rows.

    Returns:
        [columns, replicates] sums.
    """
    size = len(resampling.users)
    everyone, ends = np.arange(size, dtype=np.int32), np.array([0, size], np.int32)
    # Sparse products add in the same order on any number of cores: results are bit-identical.
    by_user = [
        sparse.csr_matrix((np.bincount(user, column, size), everyone, ends), (1, size))
        for column in columns
    ]
    sums = np.empty((len(by_user), resampling.weights.shape[1]))
    for part, drawn in resampling.chunks():
        for at, row in enumerate(by_user):
            sums[at, part] = row @ drawn
    return sums


def _histograms(
    positives: Floats, negatives: Floats, user: npt.NDArray[np.int32], p: Floats, users: int
) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Return the positive and the negative weight per (score bin, user)."""
    bins = np.unique(score_keys(p), return_inverse=True)[1]
    size = int(bins.max()) + 1 if len(bins) else 0
    if size > _BINS:
        # Neighboring scores share a bin; the error is far below the spread of replicates.
        bins = bins * _BINS // size
        size = _BINS
    bins = bins.astype(np.int32)

    def weighted(mass: Floats) -> sparse.csr_matrix:
        some = mass > 0
        return sparse.csr_matrix((mass[some], (bins[some], user[some])), (size, users))

    return weighted(positives), weighted(negatives)


def _areas(positive: Floats, negative: Floats) -> Floats:
    """Compute the AUC of each replicate from histograms, both [bins, replicates]."""
    total = negative.sum(axis=0)
    below = np.cumsum(negative, axis=0)
    below -= negative / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        areas: Floats = np.einsum("br,br->r", positive, below) / (positive.sum(axis=0) * total)
    return areas
