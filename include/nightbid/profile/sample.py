"""Distinct values with their counts: all of them if there are few, else a stable sample.

Bottom-k sampling (Cohen & Kaplan 2007): keep the k values with the smallest hashes, each with
its exact count. The selection depends only on the values, so merging is exact and associative. The
k-th smallest hash gives an estimate of the number of distinct values (Bar-Yossef et al. 2002), and
the counts give the share of repeated ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pandas.util import hash_array

from nightbid.profile.bins import Bins, Floats, Ints

Hashes = npt.NDArray[np.uint64]

LIMIT = 1024
KEY_LIMIT = 8192
"""Limit for keys, which estimates a 0.2% share of duplicates to within a quarter of it."""


@dataclass(frozen=True)
class CountedSample:
    """Values sorted by their hashes."""

    limit: int
    hashes: Hashes
    counts: Ints
    positives: Ints
    values: tuple[Any, ...]
    """Strings or numbers; empty for keys, for which hashes are sufficient."""

    @classmethod
    def empty(cls, limit: int = LIMIT) -> CountedSample:
        """A sample without values."""
        nothing = np.zeros(0, np.int64)
        return cls(limit, np.zeros(0, np.uint64), nothing, nothing, ())

    @classmethod
    def of(
        cls,
        values: npt.NDArray[Any],
        hashes: Hashes,
        counts: Ints,
        positives: Ints,
        *,
        limit: int = LIMIT,
        keep_values: bool = True,
    ) -> CountedSample:
        """Sample values, which may repeat; equal hashes mean equal values."""
        near = np.arange(len(hashes))
        if len(hashes) > 4 * limit:
            # The k smallest of distinct hashes are almost always in this small part of their range.
            bound = np.uint64(2 * limit * (2**64 // len(hashes)))
            near = np.flatnonzero(hashes < bound)
        distinct, first, inverse = np.unique(hashes[near], return_index=True, return_inverse=True)
        if len(distinct) < limit and len(near) < len(hashes):
            near = np.arange(len(hashes))
            distinct, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
        size = min(len(distinct), limit)
        chosen = near[first[:size]]
        sums = (np.bincount(inverse, numbers[near])[:size] for numbers in (counts, positives))
        rows, marked = (total.astype(np.int64) for total in sums)
        chosen_values = tuple(values[chosen].tolist()) if keep_values else ()
        return cls(limit, distinct[:size], rows, marked, chosen_values)

    def merge(self, other: CountedSample) -> CountedSample:
        """Merge with the sample of other rows."""
        hashes = np.concatenate([self.hashes, other.hashes])
        unique, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
        joined = Bins.of(
            inverse.astype(np.int64),
            np.concatenate([self.counts, other.counts]),
            np.concatenate([self.positives, other.positives]),
        )
        size = min(len(unique), self.limit)
        values = self.values + other.values
        return CountedSample(
            self.limit,
            unique[:size],
            joined.counts[:size],
            joined.positives[:size],
            tuple(values[at] for at in first[:size].tolist()) if values else (),
        )

    @property
    def complete(self) -> bool:
        """Whether the sample contains every distinct value."""
        return len(self.hashes) < self.limit

    @property
    def distinct(self) -> float:
        """Number of distinct values: exact if complete, else within about 1/√limit."""
        if self.complete:
            return float(len(self.hashes))
        return (self.limit - 1) * 2.0**64 / float(self.hashes[-1])

    @property
    def repeated_share(self) -> float:
        """Share of the rows that repeat an earlier row's value."""
        rows = int(self.counts.sum())
        return 1 - len(self.counts) / rows if rows else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; equal samples give equal values."""
        return {
            "limit": self.limit,
            "hashes": [format(number, "x") for number in self.hashes.tolist()],
            "counts": self.counts.tolist(),
            "positives": self.positives.tolist(),
            "values": list(self.values),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> CountedSample:
        """Inverse of `to_json`."""
        return cls(
            value["limit"],
            np.asarray([int(text, 16) for text in value["hashes"]], np.uint64),
            np.asarray(value["counts"], np.int64),
            np.asarray(value["positives"], np.int64),
            tuple(value["values"]),
        )


def hash_numbers(values: Floats | Ints) -> Hashes:
    """Hash the bits of each value: `pandas.util.hash_array`, splitmix64's finalizer."""
    plain = values + 0.0 if values.dtype == np.float64 else values
    # Offset by splitmix64's increment: otherwise 0 would hash to 0 and be in every sample.
    bits = np.ascontiguousarray(plain).view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    hashes: Hashes = hash_array(bits)
    return hashes


def hash_texts(values: npt.NDArray[np.object_]) -> Hashes:
    """Hash each string with pandas' SipHash with a fixed key, equal in every process."""
    hashes: Hashes = hash_array(values, categorize=False)
    return hashes
