"""Distances between two sets of counts, less what chance alone explains."""

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
"""Bins that distances are computed on: fewer rows per bin means more noise."""
SIGMAS = 4.0
NORMAL_95 = 1.96
"""Half a 95 % interval, in standard errors."""
USEFUL = 0.05
"""What the weakest useful model has more of AUC (of the Gini coefficient) than a useless one."""
MATERIAL = 0.2
"""Mean move of a number, in standard deviations, from which on a drift counts in full."""


@dataclass(frozen=True)
class Pair:
    """Two columns' counts on common bins; the last bin holds the nulls."""

    new: Ints
    new_positives: Ints
    old: Ints
    old_positives: Ints
    ordered: bool
    """Whether the bins, but for the last, are in the order of their values."""
    middles: Floats
    """[bins - 1]: a value of each bin of numbers; of anything else, empty."""


def subtract(pooled: Bins, part: Bins) -> Bins:
    """Count the rows of `pooled` that are not in its `part`."""
    inside = part.on(pooled.keys)
    counts = pooled.counts - inside.counts
    kept = counts > 0
    return Bins(pooled.keys[kept], counts[kept], (pooled.positives - inside.positives)[kept])


def pair(new: ColumnProfile, old: ColumnProfile, old_bins: Bins | None = None) -> Pair:
    """Align two profiles of a column; `old_bins` replaces those of `old`."""
    old_bins = old.bins if old_bins is None else old_bins
    keys, left, right = new.bins.aligned(old_bins)
    nulls = [new.nulls, new.null_positives, old.nulls, old.null_positives]
    parts = (left.counts, left.positives, right.counts, right.positives)
    counts = [np.append(part, null) for part, null in zip(parts, nulls, strict=True)]
    ordered = new.kind == "number"
    low, high = number_edges(keys) if ordered else (np.zeros(0), np.zeros(0))
    return Pair(counts[0], counts[1], counts[2], counts[3], ordered, (low + high) / 2)


def grouped(both: Pair, groups: int = GROUPS) -> tuple[Floats, Floats]:
    """Count in about `groups` bins of equal old mass; the null bin stays alone."""
    new, old = both.new[:-1], both.old[:-1]
    if len(old) > groups:
        total = old.sum()
        # Without an order of values, frequent ones keep a bin of their own.
        order = np.arange(len(old)) if both.ordered else np.argsort(-old, kind="stable")
        before = np.cumsum(old[order]) - old[order]
        group = np.minimum(before * groups // max(int(total), 1), groups - 1)
        new = np.bincount(group, weights=new[order], minlength=groups)
        old = np.bincount(group, weights=old[order], minlength=groups)
    return np.append(new, both.new[-1]).astype(float), np.append(old, both.old[-1]).astype(float)


def psi(new: Floats, old: Floats, draws: Draws | None = None) -> float:
    """Compute the population stability index, Σ (p − q) ln(p / q), less what chance explains.

    Under no change it is about χ² with (bins − 1) degrees of freedom times (1/n + 1/m)
    (Yurdakul 2018); the mean and four standard deviations are taken off.
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
    """Jensen-Shannon divergence in bits (0 to 1), less what chance explains (PSI / 8 ln 2)."""
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


def linf(both: Pair, draws: Draws | None = None) -> float:
    """Largest change of a value's share, or of the distribution function of numbers."""
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


def material(both: Pair, least: float = 0.0, chance: float = 0.0) -> float:
    """Weigh how far numbers moved: 0 not at all, 1 as far as matters, 0.2 standard deviations.

    `least` is a move that matters whatever the deviation is: few point masses close together
    deviate so little that any move looks large. A move of `chance` is none.

    Distances between counts take every bin to be as far from its neighbor as from the last one:
    when half of the rows show one ad and that ad is a day older, they see half of the rows gone.
    The Wasserstein distance sees a day.
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
"""Independent draws of the new and of the old rows, where rows are not independent."""


class Distances(NamedTuple):
    """How far two sets of counts are apart beyond chance; nearly 0 for numbers that hardly move."""

    psi: float
    js: float
    linf: float


def distances(
    both: Pair, least: float = 0.0, draws: Draws | None = None, chance: float = 0.0
) -> Distances:
    """Compute the distances, weighed by how far the numbers moved (`material`).

    Args:
        both: the counts.
        least: a move that matters, see `material`.
        draws: where the rows of an entity share a value, how many draws they stand for.
        chance: how far the mean of numbers moves by itself, where they are estimates.
    """
    counts, share = grouped(both), material(both, least, chance)
    return Distances(
        share * psi(*counts, draws),
        share * jensen_shannon(*counts, draws),
        share * linf(both, draws),
    )


def independent(column: ColumnProfile) -> float:
    """Number of entities that a column of ids stands for: (Σ n)² / Σ n² of their rows n (Kish).

    Rows that one entity shares a value in count as one draw. Of more entities than the profile
    keeps, Σ n² is that of the sample, scaled.
    """
    counts = column.sample.counts.astype(float)
    if not len(counts) or not column.values:
        return float(column.values)
    share = 1.0 if column.sample.complete else len(counts) / max(column.distinct, len(counts))
    squares = float((counts**2).sum()) / share
    return min(column.values**2 / squares, float(column.values)) if squares else 1.0


def transfer_auc(both: Pair) -> tuple[float, float]:
    """AUC on the new rows of ranking their bins by the old rows' label rates.

    Ranking on one set and scoring on another is what keeps rare values from looking predictive.

    Returns:
        The AUC (0.5 when either side has one class only) and its standard error.
    """
    old_negatives = both.old - both.old_positives
    positives, negatives = both.new_positives, both.new - both.new_positives
    if positives.sum() == 0 or negatives.sum() == 0 or both.old_positives.sum() == 0:
        return 0.5, 0.5
    prior = both.old_positives.sum() / max(both.old.sum(), 1)
    # Shrunk by 20 rows of the mean rate: unseen bins rank in the middle.
    rates = (both.old_positives + 20 * prior) / (both.old_positives + old_negatives + 20)
    return _auc(rates, positives, negatives), float(
        np.sqrt(1 / (12 * positives.sum()) + 1 / (12 * negatives.sum()))
    )


def auc_error(auc: float, positives: int, negatives: int) -> float:
    """Standard error of an AUC (Hanley and McNeil 1982), never of a perfect one."""
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


def order_auc(both: Pair) -> float:
    """AUC on the new rows of the values' own order, whichever way; 0.5 where there is none.

    It needs no other rows to rank by, so it sees a leak on the first day of it.
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
    """Move a value towards its center by four standard errors, not past it."""
    margin = SIGMAS * error
    if value > center:
        return max(value - margin, center)
    return min(value + margin, center)


def share_error(share: float, usual: float, rows: int) -> float:
    """Standard error of a share that is compared with a usual one: the larger of both shares'.

    Where it really has risen, as new users do on a holiday, few rows vary by more than the usual
    share tells. The error of no occurrence is that of one.
    """
    variance = max(usual * (1 - usual), share * (1 - share), 1 / rows)
    return math.sqrt(variance / rows)


def interval_error(interval: Mapping[str, Any] | None) -> float:
    """Standard error that a 95 % interval (`low`, `high`) tells; 0 where there is none."""
    if not interval or interval["low"] is None or interval["high"] is None:
        return 0.0
    return float(interval["high"] - interval["low"]) / (2 * NORMAL_95)


def useful(value: float, nothing: float, error: float) -> float:
    """Take chance off a ranking figure that is near that of a useless model, never beyond useful.

    A useless model is to be found, so what lies between a useless model and the weakest useful one
    (0.05) needs no benefit of the doubt: only where four standard errors are wider than that, the
    rows are too few to tell them apart, and the rest of the four is taken off.

    Args:
        value: AUC or Gini coefficient.
        nothing: its value for a model that knows nothing.
        error: its standard error.
    """
    doubt = max(SIGMAS * error - USEFUL, 0.0)
    return max(value, min(value + doubt, nothing + USEFUL))


def median(values: Sequence[float] | npt.NDArray[np.float64]) -> float:
    """Median as a plain float; not a number if a value is none."""
    # Called for a handful of days at a time, of which NumPy makes twenty times the work.
    found = sorted(map(float, values))
    if any(map(math.isnan, found)):
        return math.nan
    half = len(found) // 2
    return found[half] if len(found) % 2 else (found[half - 1] + found[half]) / 2
