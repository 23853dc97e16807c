"""What features learn from rows: counts of tokens, profiles of numbers, history by key and day.

Each is a mergeable accumulator: parts of the rows, in any grouping and order, give the same
result, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.columns import Floats, Hashes, whole
from nightbid.features.values import days_of
from nightbid.profile.column import ColumnProfile
from nightbid.schema import LABEL, TIME, WEIGHT

WEIGHT_UNIT = 2.0**20
"""Weights are added as integers of 2^-20: sums are then exact, in any order."""


@dataclass(frozen=True)
class TokenCounts:
    """How often each token was seen."""

    table: pa.Table
    """token string, count int64; sorted by token."""

    @classmethod
    def of(cls, codes: npt.NDArray[np.int32], tokens: pa.Array) -> TokenCounts:
        """Count the tokens of an encoded column, see `nightbid.columns.encode`."""
        counts = np.bincount(codes[codes >= 0], minlength=len(tokens)).astype(np.int64)
        return cls(pa.table({"token": tokens, "count": counts}).sort_by("token"))

    def merge(self, other: TokenCounts) -> TokenCounts:
        """Count both sets of rows."""
        both = pa.concat_tables([self.table, other.table])
        summed = both.group_by("token").aggregate([("count", "sum")])
        summed = summed.rename_columns({"count_sum": "count"}).select(["token", "count"])
        return TokenCounts(summed.sort_by("token").combine_chunks())

    def top(self, top_k: int, min_count: int) -> pa.Array:
        """List the most frequent tokens, ties in order of their text."""
        frequent = self.table.filter(pc.greater_equal(self.table["count"], min_count))
        order = [("count", "descending"), ("token", "ascending")]
        return frequent.sort_by(order)["token"].slice(0, top_k).combine_chunks()


@dataclass(frozen=True)
class NumberStatistics:
    """Mean, standard deviation and quantiles of a column of numbers."""

    profile: ColumnProfile

    @classmethod
    def of(cls, values: Floats) -> NumberStatistics:
        """Profile float64 [rows]; NaN is missing."""
        known = pa.chunked_array([pa.array(values[~np.isnan(values)])])
        return cls(ColumnProfile.of("", known, np.zeros(len(known), np.int64)))

    def merge(self, other: NumberStatistics) -> NumberStatistics:
        """Profile both sets of rows."""
        return NumberStatistics(self.profile.merge(other.profile))


@dataclass(frozen=True)
class DayCounts:
    """Weighted rows and positives by key and day."""

    table: pa.Table
    """key uint64, day int32 (since 1970, UTC), weight and positives int64 (in units of 2^-20);
    sorted by key and day."""

    @classmethod
    def of(cls, keys: Hashes, rows: pa.Table) -> DayCounts:
        """Count rows by key [rows]; `rows` has the reserved columns."""
        weight = np.round(np.asarray(rows[WEIGHT], np.float64) * WEIGHT_UNIT).astype(np.int64)
        label = np.asarray(rows[LABEL], np.float64) == 1
        table = pa.table(
            {
                "key": keys,
                "day": days_of(whole(rows[TIME])),
                "weight": weight,
                "positives": np.where(label, weight, 0),
            }
        )
        return cls(_summed(table))

    def merge(self, other: DayCounts) -> DayCounts:
        """Count both sets of rows."""
        return DayCounts(_summed(pa.concat_tables([self.table, other.table])))


def _summed(table: pa.Table) -> pa.Table:
    names = ["weight", "positives"]
    grouped = table.group_by(["key", "day"]).aggregate([(name, "sum") for name in names])
    grouped = grouped.rename_columns({f"{name}_sum": name for name in names})
    return (
        grouped.select(["key", "day", *names])
        .sort_by([("key", "ascending"), ("day", "ascending")])
        .combine_chunks()
    )


Statistic = TokenCounts | NumberStatistics | DayCounts
Statistics = Mapping[str, Statistic]
"""By feature; a feature that learns nothing is not there."""


def merge_all(mine: Statistics, theirs: Statistics) -> dict[str, Statistic]:
    """Merge the statistics of two sets of rows."""
    merged = dict(mine)
    for name, statistic in theirs.items():
        # Two statistics of one feature are always of one class.
        merged[name] = mine[name].merge(statistic) if name in mine else statistic  # type: ignore[arg-type]
    return merged
