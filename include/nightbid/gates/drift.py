"""Distances between two sets of counts, reduced by what chance alone explains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nightbid.profile.bins import Bins, Floats, Ints, number_edges
from nightbid.profile.column import ColumnProfile

GROUPS = 20
"""Number of bins for distances; more bins have fewer rows each and so more noise."""
SIGMAS = 4.0
NORMAL_95 = 1.96
"""Half the width of a 95% interval, in standard errors."""
USEFUL = 0.05
"""AUC (Gini coefficient) of the weakest useful model, in excess of a useless model."""
MATERIAL = 0.2
"""Mean shift of a number, in standard deviations, from which a drift counts in full."""


@dataclass(frozen=True)
class BinnedPair:
    """Counts of two columns on common bins; the last bin holds the nulls."""

    new: Ints
    new_positives: Ints
    old: Ints
    old_positives: Ints
    ordered: bool
    """Whether the bins, except the last, are in the order of their values."""
    middles: Floats
    """[bins - 1] a representative value of each bin of numbers; empty for other types."""


def subtract(pooled: Bins, part: Bins) -> Bins:
    """Subtract the counts of `part` from those of `pooled`, which includes it."""
    inside = part.on(pooled.keys)
    counts = pooled.counts - inside.counts
    present = counts > 0
    return Bins(
        pooled.keys[present], counts[present], (pooled.positives - inside.positives)[present]
    )


def pair(new: ColumnProfile, old: ColumnProfile, old_bins: Bins | None = None) -> BinnedPair:
    """Align two profiles of a column; `old_bins` replaces those of `old`."""
    old_bins = old.bins if old_bins is None else old_bins
    keys, left, right = new.bins.aligned(old_bins)
    nulls = [new.nulls, new.null_positives, old.nulls, old.null_positives]
    parts = (left.counts, left.positives, right.counts, right.positives)
    counts = [np.append(part, null) for part, null in zip(parts, nulls, strict=True)]
    ordered = new.kind == "number"
    low, high = number_edges(keys) if ordered else (np.zeros(0), np.zeros(0))
    return BinnedPair(counts[0], counts[1], counts[2], counts[3], ordered, (low + high) / 2)


def grouped(both: BinnedPair, groups: int = GROUPS) -> tuple[Floats, Floats]:
    """Merge the bins to about `groups` bins of equal old mass; the null bin stays separate."""
    new, old = both.new[:-1], both.old[:-1]
    if len(old) > groups:
        total = old.sum()
        # If the values have no order, frequent ones keep a bin of their own.
        order = np.arange(len(old)) if both.ordered else np.argsort(-old, kind="stable")
        before = np.cumsum(old[order]) - old[order]
        group = np.minimum(before * groups // max(int(total), 1), groups - 1)
        new = np.bincount(group, weights=new[order], minlength=groups)
        old = np.bincount(group, weights=old[order], minlength=groups)
    return np.append(new, both.new[-1]).astype(float), np.append(old, both.old[-1]).astype(float)


def psi(new: Floats, old: Floats, draws: Draws | None = None) -> float:
    """Compute the population stability index, Σ (p − q) ln(p / q), minus what chance explains.

    Without a change it is approximately χ² with (bins − 1) degrees of freedom times (1/n + 1/m)
    (Yurdakul 2018); the mean and four standard deviations are subtracted.
    """
    n, m = new.sum(), old.sum()
    if n == 0 or m == 0:
        return 0.0
    used = (new + old) > 0
    bins = int(used.sum())
    p, q = (new[used] + 0.5) / (n + 0.5 * bins), (old[used] + 0.5) / (m + 0.5 * bins)
    value = float(((p - q) * np.log(p / q)).sum())
    return max(value - _chance(bins, *(draws or (n, m))), 0.0)


def jensen_shannon(new: Floats, old: Floats, draws: Draws | None = None) -> float:
    """Compute the Jensen-Shannon divergence in bits (0 to 1), minus chance (PSI / 8 ln 2)."""
    n, m = new.sum(), old.sum()
    if n == 0 or m == 0:
        return 0.0
    used = (new + old) > 0
    p, q = new[used] / n, old[used] / m
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.where(p > 0, p * np.log2(p / middle), 0.0).sum()
        right = np.where(q > 0, q * np.log2(q / middle), 0.0).sum()
    chance = _chance(int(used.sum()), *(draws or (n, m))) / (8 * np.log(2))
    return max(float(left + right) / 2 - float(chance), 0.0)


def _chance(bins: int, n: float, m: float) -> float:
    free = max(bins - 1, 0)
    return float((free + SIGMAS * np.sqrt(2 * free)) * (1 / n + 1 / m))


def linf(both: BinnedPair, draws: Draws | None = None) -> float:
    """Compute the largest change in a value's share (for numbers, in the distribution function)."""
    n, m = int(both.new.sum()), int(both.old.sum())
    if n == 0 or m == 0:
        return 0.0
    p, q = both.new / n, both.old / m
    change = np.abs(np.cumsum(p - q)) if both.ordered else np.abs(p - q)
    mixed = (both.new + both.old) / (n + m)
    share = np.clip(np.cumsum(mixed), 0, 1) if both.ordered else mixed
    new, old = draws or (n, m)
    noise = SIGMAS * np.sqrt(share * (1 - share) * (1 / new + 1 / old))
    return max(float((change - noise).max(initial=0.0)), 0.0)


def material(both: BinnedPair, least: float = 0.0, chance: float = 0.0) -> float:
    """Weigh how far numbers moved, from 0 (not at all) to 1 (0.2 standard deviations or more).

    Distances between counts ignore how far apart two bins are: if half of the rows show one ad and
    that ad is a day older, half of the rows appear to have changed. The Wasserstein distance, which
    this weight uses, sees a move of one day.

    Args:
        both: Counts of both sides.
        least: Minimum move that counts in full, in units of the column. It matters for columns with
            a few close values, whose standard deviation is so small that any move looks large.
        chance: Move to subtract as chance, in units of the column.
    """
    new, old = both.new[:-1].astype(float), both.old[:-1].astype(float)
    if not both.ordered or len(new) < 2 or not new.sum() or not old.sum():
        return 1.0
    p, q = new / new.sum(), old / old.sum()
    moved = float((np.abs(np.cumsum(p - q))[:-1] * np.diff(both.middles)).sum())
    mean = float((q * both.middles).sum())
    spread = float(np.sqrt((q * (both.middles - mean) ** 2).sum()))
    enough = max(MATERIAL * spread, least)
    return min(max(moved - chance, 0.0) / enough, 1.0) ** 2 if enough > 0 else 1.0


Draws = tuple[float, float]
"""Numbers of independent draws of the new and old rows, if the rows are not independent."""


class Distances(NamedTuple):
    """Distances between two sets of counts beyond chance; near 0 for numbers that hardly move."""

    psi: float
    js: float
    linf: float


def distances(
    both: BinnedPair, least: float = 0.0, draws: Draws | None = None, chance: float = 0.0
) -> Distances:
    """Compute the distances, weighed by how far the numbers moved (`material`).

    Args:
        both: Counts of both sides.
        least: Minimum move that counts in full, see `material`.
        draws: Numbers of independent draws, if the rows of an entity share a value; None: each row
            is a draw.
        chance: Move of the mean by chance, if the numbers are estimates, see `material`.
    """
    counts, share = grouped(both), material(both, least, chance)
    return Distances(
        share * psi(*counts, draws),
        share * jensen_shannon(*counts, draws),
        share * linf(both, draws),
    )


def independent(column: ColumnProfile) -> float:
    """Compute the effective number of entities in an id column, (Σ n)² / Σ n² of rows n (Kish).

    The rows of an entity, which share a value, count as one draw. If there are more entities than
    the profile keeps, Σ n² is that of the sample, scaled up.
    """
    counts = column.sample.counts.astype(float)
    if not len(counts) or not column.values:
        return float(column.values)
    share = 1.0 if column.sample.complete else len(counts) / max(column.distinct, len(counts))
    squares = float((counts**2).sum()) / share
    return min(column.values**2 / squares, float(column.values)) if squares else 1.0


def transfer_auc(both: BinnedPair) -> tuple[float, float]:
    """Compute the AUC on the new rows if their bins are ranked by the old rows' label rates.

    Because ranking and scoring use different rows, rare values do not look predictive.

    Returns:
        The AUC (0.5 when either side has one class only) and its standard error.
    """
    old_negatives = both.old - both.old_positives
    positives, negatives = both.new_positives, both.new - both.new_positives
    if positives.sum() == 0 or negatives.sum() == 0 or both.old_positives.sum() == 0:
        return 0.5, 0.5
    prior = both.old_positives.sum() / max(both.old.sum(), 1)
    # Shrink by 20 rows with the mean rate, so that unseen bins rank in the middle.
    rates = (both.old_positives + 20 * prior) / (both.old_positives + old_negatives + 20)
    return _auc(rates, positives, negatives), float(
        np.sqrt(1 / (12 * positives.sum()) + 1 / (12 * negatives.sum()))
    )


def auc_error(auc: float, positives: int, negatives: int) -> float:
    """Compute the standard error of an AUC (Hanley and McNeil 1982); never 0, even for AUC 1."""
    positives, negatives = max(positives, 1), max(negatives, 1)
    doubt = 1 / (8 * positives)
    value = min(max(auc, doubt), 1 - doubt)
    one, two = value / (2 - value), 2 * value**2 / (1 + value)
    spread = (
        value * (1 - value)
        + (positives - 1) * (one - value**2)
        + (negatives - 1) * (two - value**2)
    )
    return float(np.sqrt(spread / (positives * negatives)))


def order_auc(both: BinnedPair) -> float:
    """Compute the AUC of the values' own order, in either direction; 0.5 if they have no order.

    It needs no other rows to rank by, so it finds a leak on its first day.
    """
    positives = both.new_positives[:-1]
    negatives = both.new[:-1] - positives
    if not both.ordered or positives.sum() == 0 or negatives.sum() == 0:
        return 0.5
    value = _auc(np.arange(len(positives), dtype=float), positives, negatives)
    return max(value, 1 - value)


def _auc(scores: Floats, positives: Ints, negatives: Ints) -> float:
    _, inverse = np.unique(scores, return_inverse=True)
    right = np.bincount(inverse, weights=positives)
    wrong = np.bincount(inverse, weights=negatives)
    below = np.cumsum(wrong) - wrong
    return float((right * (below + wrong / 2)).sum() / (right.sum() * wrong.sum()))


def beyond_chance(value: float, center: float, error: float) -> float:
    """Move a value toward its center by four standard errors, but not past it."""
    margin = SIGMAS * error
    if value > center:
        return max(value - margin, center)
    return min(value + margin, center)


def share_error(share: float, usual: float, rows: int) -> float:
    """Compute the standard error of a share that is compared with a usual share.

    It is the larger of the errors of both shares, because a share that has really risen varies more
    than the usual one. Zero occurrences have the error of one.
    """
    variance = max(usual * (1 - usual), share * (1 - share), 1 / rows)
    return math.sqrt(variance / rows)


def interval_error(interval: Mapping[str, Any] | None) -> float:
    """Derive the standard error from a 95% interval (`low`, `high`); 0 without an interval."""
    if not interval or interval["low"] is None or interval["high"] is None:
        return 0.0
    return float(interval["high"] - interval["low"]) / (2 * NORMAL_95)


def useful(value: float, nothing: float, error: float) -> float:
    """Correct a ranking metric near that of a useless model for chance, up to a useful model's.

    The gate must find useless models, so a value between a useless and the weakest useful model
    (0.05 apart) is corrected only if there are too few rows to tell these two apart: by the part of
    four standard errors that exceeds 0.05.

    Args:
        value: AUC or Gini coefficient.
        nothing: Value of the metric for a model that knows nothing.
        error: Standard error of the metric.
    """
    doubt = max(SIGMAS * error - USEFUL, 0.0)
    return max(value, min(value + doubt, nothing + USEFUL))


def median(values: Sequence[float] | npt.NDArray[np.float64]) -> float:
    """Compute the median as a plain float; NaN if a value is NaN."""
    # Called with only a few values, for which NumPy is twenty times slower.
    ordered = sorted(map(float, values))
    if any(map(math.isnan, ordered)):
        return math.nan
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
