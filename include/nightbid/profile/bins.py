"""Counts in predefined bins, so that merging is addition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MANTISSA_BITS = 5
"""Mantissa bits of a bin: 32 bins per power of two; quantiles within 3%, integers to 64 exact."""
HOUR_US = 3_600_000_000
HASH_BINS = 256
DENSE = 4
"""Keys are counted by offset if their range is below this many times their number."""


@dataclass(frozen=True)
class Bins:
    """Sparse counts per bin: rows, and rows with label 1."""

    keys: Ints
    counts: Ints
    positives: Ints

    @classmethod
    def of(cls, keys: Ints, counts: Ints, positives: Ints) -> Bins:
        """Aggregate entries with equal keys."""
        lowest = int(keys.min()) if len(keys) else 0
        if len(keys) and int(keys.max()) - lowest < DENSE * len(keys):
            # In a small range, counting by offset is faster than sorting.
            place = keys - lowest
            used = np.flatnonzero(np.bincount(place))
            size = int(used[-1]) + 1
            return cls(
                (used + lowest).astype(np.int64),
                _sum_by(place, counts, size)[used],
                _sum_by(place, positives, size)[used],
            )
        unique, inverse = np.unique(keys, return_inverse=True)
        size = len(unique)
        return cls(
            unique.astype(np.int64),
            _sum_by(inverse, counts, size),
            _sum_by(inverse, positives, size),
        )

    @classmethod
    def empty(cls) -> Bins:
        """Counts of no rows."""
        nothing = np.zeros(0, np.int64)
        return cls(nothing, nothing, nothing)

    def merge(self, other: Bins) -> Bins:
        """Add the counts of other rows."""
        return Bins.of(
            np.concatenate([self.keys, other.keys]),
            np.concatenate([self.counts, other.counts]),
            np.concatenate([self.positives, other.positives]),
        )

    def aligned(self, other: Bins) -> tuple[Ints, Bins, Bins]:
        """Expand both to the union of their bins, filled with zeros."""
        keys = np.union1d(self.keys, other.keys)
        return keys, self.on(keys), other.on(keys)

    def on(self, keys: Ints) -> Bins:
        """Expand the counts to a superset of their bins."""
        counts, positives = np.zeros(len(keys), np.int64), np.zeros(len(keys), np.int64)
        at = np.searchsorted(keys, self.keys)
        counts[at], positives[at] = self.counts, self.positives
        return Bins(keys, counts, positives)

    def to_json(self) -> dict[str, list[int]]:
        """Return JSON values; keys as differences, since they are sorted and close together."""
        return {
            "keys": np.diff(self.keys, prepend=0).tolist(),
            "counts": self.counts.tolist(),
            "positives": self.positives.tolist(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Bins:
        """Inverse of `to_json`."""
        return cls(
            np.cumsum(np.asarray(value["keys"], np.int64)),
            np.asarray(value["counts"], np.int64),
            np.asarray(value["positives"], np.int64),
        )


def _sum_by(inverse: npt.NDArray[np.intp], values: Ints, size: int) -> Ints:
    # bincount adds in float64, which is exact for counts below 2^53.
    return np.bincount(inverse, weights=values, minlength=size).astype(np.int64)


def number_bins(values: Floats) -> Ints:
    """Bin of each finite value: sign, exponent and 5 mantissa bits, as an ordered integer."""
    # Adding 0.0 turns -0.0 into 0.0, so equal values share a bin.
    bits = (values + 0.0).view(np.int64)
    top: Ints = bits >> (52 - MANTISSA_BITS)
    if not len(top) or int(bits.min()) >= 0:
        return top
    # The bits of negative floats sort backwards: map them to -1 - magnitude, without a branch.
    mirror = bits >> 63
    mirror &= (1 << (11 + MANTISSA_BITS)) - 1
    top ^= mirror
    return top


def number_edges(keys: Ints) -> tuple[Floats, Floats]:
    """Lower and upper edges of bins made by `number_bins`."""
    magnitude = np.where(keys < 0, -1 - keys, keys)
    low = (magnitude << (52 - MANTISSA_BITS)).view(np.float64)
    high = ((magnitude + 1) << (52 - MANTISSA_BITS)).view(np.float64)
    return np.where(keys < 0, -high, low), np.where(keys < 0, -low, high)


def between_edges(bins: Bins, rank: float, minimum: float, maximum: float) -> float:
    """Value of a rank, interpolated within its bin of `number_bins`.

    Args:
        bins: Counts; not empty.
        rank: Rank from 0 to the number of rows.
        minimum: Minimum of the values.
        maximum: Maximum of the values.
    """
    cumulative = np.cumsum(bins.counts)
    at = min(int(np.searchsorted(cumulative, rank)), len(cumulative) - 1)
    lows, highs = number_edges(bins.keys[at : at + 1])
    inside = (rank - (cumulative[at] - bins.counts[at])) / bins.counts[at]
    low = max(float(lows[0]), minimum if at == 0 else float(lows[0]))
    high = min(float(highs[0]), maximum)
    return low + (high - low) * float(np.clip(inside, 0, 1))
