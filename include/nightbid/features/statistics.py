"""Statistics that features learn from: token counts, moments, quantiles, history by key and day.

Each is a mergeable accumulator: merging parts of the rows in any grouping and order gives the same
result, byte for byte.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from upath import UPath

from nightbid.column_parsing import Floats, Ints, token_hashes, whole
from nightbid.features.key_statistics import DayCounts, KeyEvents
from nightbid.profile.bins import Bins, between_edges, number_bins
from nightbid.profile.exact import ExactSum, deviation

COMPACT_ABOVE = 500_000
"""Minimum number of pending entries before parts are added up."""
SPILL_GROUPS = 16
FEW = 1024
"""Maximum number of distinct values for exact quantiles."""
NO_TOKENS = pa.table({"token": pa.array([], pa.string()), "count": pa.array([], pa.int64())})


@dataclass(frozen=True)
class TokenCounts:
    """Number of occurrences of each token."""

    parts: tuple[pa.Table, ...]
    """token string, count int64, unsorted; largest part first. A token may be in several parts."""
    spilled: tuple[str, ...] = ()
    """Files with further parts; row group p holds the tokens with hash p modulo SPILL_GROUPS."""

    @classmethod
    def of(cls, codes: npt.NDArray[np.int32], tokens: pa.Array) -> TokenCounts:
        """Count the tokens of an encoded column, see `nightbid.column_parsing.encode`."""
        counts = np.bincount(codes[codes >= 0], minlength=len(tokens)).astype(np.int64)
        return cls((pa.table({"token": tokens, "count": counts}),))

    def merge(self, other: TokenCounts) -> TokenCounts:
        """Merge both counts; parts are added up once the smaller ones outgrow the largest."""
        parts = sorted((*self.parts, *other.parts), key=len, reverse=True)
        spilled = (*self.spilled, *other.spilled)
        rest = sum(map(len, parts[1:]))
        if len(parts) > 1 and rest > max(len(parts[0]), COMPACT_ABOVE):
            return TokenCounts((_added(parts),), spilled)
        return TokenCounts(tuple(parts), spilled)

    def spill(self, folder: UPath, limit: int) -> TokenCounts:
        """Move the parts to a file if they have more than `limit` entries.

        Counts stay exact: nothing is dropped. Memory is bounded by `limit` during merging and by a
        fraction 1 / SPILL_GROUPS of the distinct tokens at the end.
        """
        if sum(map(len, self.parts)) <= limit:
            return self
        table = _added(self.parts)
        if len(table) <= limit:
            return TokenCounts((table,), self.spilled)
        group = (token_hashes(table["token"]) % np.uint64(SPILL_GROUPS)).astype(np.int64)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{uuid.uuid4().hex}.parquet"
        with (
            path.open("wb") as stream,
            pq.ParquetWriter(stream, table.schema, use_dictionary=False) as writer,
        ):
            for number in range(SPILL_GROUPS):
                writer.write_table(
                    table.take(np.flatnonzero(group == number)), row_group_size=2**30
                )
        return TokenCounts((), (*self.spilled, str(path)))

    def top(self, top_k: int, min_count: int) -> pa.Array:
        """List the most frequent tokens, ties in text order."""
        tables = [_most_frequent(_added(parts), top_k, min_count) for parts in self._groups()]
        together = _most_frequent(pa.concat_tables(tables), top_k, min_count)
        return whole(together["token"])

    def sorted_tables(self, limit: int) -> list[pa.Table]:
        """Add up and sort: one table of at most `limit` tokens, or else one per hash group."""
        if not self.spilled:
            table = _added(self.parts or (NO_TOKENS,))
            if len(table) <= limit:
                return [_in_order(table)]
        tables = list(self.by_hash())
        return tables if sum(map(len, tables)) > limit else [_in_order(pa.concat_tables(tables))]

    def by_hash(self) -> Iterator[pa.Table]:
        """Add up and sort each hash group: yields SPILL_GROUPS tables of token and count."""
        whole_ = self if self.spilled else TokenCounts((_added(self.parts or (NO_TOKENS,)),))
        for parts in whole_._groups(always=True):
            yield _in_order(_added(parts))

    def _groups(self, *, always: bool = False) -> Iterator[Sequence[pa.Table]]:
        if not self.spilled and not always:
            yield self.parts or (NO_TOKENS,)
            return
        table = _added(self.parts or (NO_TOKENS,))
        group = (token_hashes(table["token"]) % np.uint64(SPILL_GROUPS)).astype(np.int64)
        for number in range(SPILL_GROUPS):
            spilled = [_read_group(path, number) for path in self.spilled]
            yield [table.take(np.flatnonzero(group == number)), *spilled]


def _read_group(path: str, group: int) -> pa.Table:
    with UPath(path).open("rb") as stream:
        return pq.ParquetFile(stream).read_row_group(group)


def _added(parts: Sequence[pa.Table]) -> pa.Table:
    """Add up the counts of equal tokens."""
    # Arrow drops empty chunks when it encodes them.
    parts = [part for part in parts if len(part)]
    if not parts:
        return NO_TOKENS
    # One dictionary for all parts numbers their strings; Arrow builds it without holding the GIL.
    chunks = [whole(part["token"]) for part in parts]
    encoded = pa.chunked_array(chunks, pa.string()).dictionary_encode()
    tokens = encoded.chunk(0).dictionary
    counts = np.zeros(len(tokens), np.int64)
    for chunk, part in zip(encoded.chunks, parts, strict=True):
        np.add.at(counts, np.asarray(chunk.indices), np.asarray(part["count"]))
    return pa.table({"token": tokens, "count": counts})


def _in_order(table: pa.Table) -> pa.Table:
    return table.sort_by([("token", "ascending")]).combine_chunks()


def _most_frequent(table: pa.Table, top_k: int, min_count: int) -> pa.Table:
    frequent = table.filter(pc.greater_equal(table["count"], min_count))
    if len(frequent) > top_k:
        # Sort only the tokens that can be in the result by text.
        counts = np.asarray(frequent["count"])
        least = int(np.partition(counts, len(counts) - top_k)[len(counts) - top_k])
        frequent = frequent.filter(pc.greater_equal(frequent["count"], least))
    order = [("count", "descending"), ("token", "ascending")]
    return frequent.sort_by(order).slice(0, top_k)


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of a column of numbers; sums are exact."""

    rows: int
    total: ExactSum
    squares: ExactSum

    @classmethod
    def of(cls, values: Floats, counts: Ints) -> Moments:
        """Sum finite values [distinct], each seen `counts` times."""
        with np.errstate(over="ignore"):
            squared = np.minimum(values * values, np.finfo(np.float64).max)
        return cls(int(counts.sum()), ExactSum.of(values, counts), ExactSum.of(squared, counts))

    def merge(self, other: Moments) -> Moments:
        """Sum both sets of rows."""
        return Moments(
            self.rows + other.rows, self.total + other.total, self.squares + other.squares
        )

    @property
    def mean(self) -> float:
        """Mean; 0 without rows."""
        return float(self.total.fraction / self.rows) if self.rows else 0.0

    @property
    def std(self) -> float:
        """Population standard deviation; 0 without rows."""
        return deviation(self.total, self.squares, self.rows) if self.rows else 0.0


@dataclass(frozen=True)
class Quantiles:
    """Counts in 32 bins per power of two, and of every value while there are few distinct ones."""

    bins: Bins
    values: Bins | None
    """Counts by the bits of the value; None once there are more than FEW distinct values."""
    minimum: float = math.inf
    maximum: float = -math.inf

    @classmethod
    def of(cls, values: Floats, counts: Ints) -> Quantiles:
        """Count finite values [distinct], each seen `counts` times."""
        if not len(values):
            return cls(Bins.empty(), Bins.empty())
        values = values + 0.0  # -0.0 is 0.0
        nothing = np.zeros(len(values), np.int64)
        few = None
        # Most columns with many distinct values have many in their first rows.
        if len(np.unique(values[: 2 * FEW])) <= FEW:
            few = _few(Bins.of(values.view(np.int64), counts, nothing))
        return cls(
            Bins.of(number_bins(values), counts, nothing),
            few,
            float(values.min()),
            float(values.max()),
        )

    def merge(self, other: Quantiles) -> Quantiles:
        """Merge both counts."""
        few = None
        if self.values is not None and other.values is not None:
            few = _few(self.values.merge(other.values))
        return Quantiles(
            self.bins.merge(other.bins),
            few,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
        )

    def at(self, share: float) -> float | None:
        """Quantile: exact for few distinct values, else within 3%; None without rows."""
        rows = int(self.bins.counts.sum())
        if not rows:
            return None
        if self.values is not None:
            values = self.values.keys.view(np.float64)
            order = np.argsort(values)
            reached = np.searchsorted(np.cumsum(self.values.counts[order]), share * rows)
            return float(values[order[min(int(reached), len(order) - 1)]])
        return between_edges(self.bins, share * rows, self.minimum, self.maximum)


def _few(values: Bins) -> Bins | None:
    return values if len(values.keys) <= FEW else None


Statistic = TokenCounts | Moments | Quantiles | DayCounts | KeyEvents
Statistics = Mapping[str, Statistic]
"""Statistics by feature; features that learn nothing are absent."""


def merge_all(left: Statistics, right: Statistics) -> dict[str, Statistic]:
    """Merge the statistics of two sets of rows."""
    merged = dict(left)
    for name, statistic in right.items():
        # The statistics of a feature are always of the same class.
        merged[name] = left[name].merge(statistic) if name in left else statistic  # type: ignore[arg-type]
    return merged


def merge_many(parts: Sequence[Statistic]) -> Statistic:
    """Merge statistics of one class at once; tables are added up once, when they are read."""
    if len(parts) > 1 and isinstance(parts[0], DayCounts):
        known = [part for part in parts if isinstance(part, DayCounts)]
        tables = [table for part in known for table in part.tables]
        return DayCounts(tuple(tables), tuple(path for part in known for path in part.spilled))
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)  # type: ignore[arg-type]
    return merged
