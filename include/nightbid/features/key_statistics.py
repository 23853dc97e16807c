"""Statistics by key and day, or by key and time, for `target_rate`, `count` and `recent`.

They are mergeable like all statistics. Tables are sorted by the hash of the key, so that many large
ones are merged one range of keys at a time.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from nightbid.column_parsing import Hashes, whole
from nightbid.features.key_ranges import by_range, write_by_range
from nightbid.features.state import WEIGHT_UNIT
from nightbid.features.values import days_of, moments_of
from nightbid.schema import LABEL, TIME, WEIGHT

COMPACT_ABOVE = 500_000
"""Minimum number of pending entries before tables are added up."""
DAY_COUNTS = pa.schema(
    {"key": pa.uint64(), "day": pa.int32(), "weight": pa.int64(), "positives": pa.int64()}
)
EVENTS = pa.schema({"key": pa.uint64(), "time": pa.int64(), "token": pa.string()})


@dataclass(frozen=True)
class DayCounts:
    """Weighted rows and positive labels by key and day."""

    tables: tuple[pa.Table, ...]
    """Sorted by key and day each; overlapping keys and days add up.

    key uint64, day int32 (since 1970, in the source's zone), weight and positives int64 (in units
    of 2^-20)."""
    spilled: tuple[str, ...] = ()
    """Files with further counts, see `nightbid.features.key_ranges`."""

    @classmethod
    def of(cls, keys: Hashes, rows: pa.Table, zone: str = "UTC") -> DayCounts:
        """Count rows by key [rows] and day in a zone; `rows` has the reserved columns."""
        weight = np.round(np.asarray(rows[WEIGHT], np.float64) * WEIGHT_UNIT).astype(np.int64)
        # For a value label: the weighted sum of values.
        value = np.asarray(rows[LABEL], np.float64) * np.asarray(rows[WEIGHT], np.float64)
        table = pa.table(
            {
                "key": keys,
                "day": days_of(whole(rows[TIME]), zone),
                "weight": weight,
                "positives": np.round(value * WEIGHT_UNIT).astype(np.int64),
            }
        )
        return cls((_counted(table),))

    def merge(self, other: DayCounts) -> DayCounts:
        """Merge both counts; tables are added up once the smaller ones outgrow the largest."""
        tables = sorted((*self.tables, *other.tables), key=len, reverse=True)
        spilled = (*self.spilled, *other.spilled)
        if len(tables) > 1 and sum(map(len, tables[1:])) > max(len(tables[0]), COMPACT_ABOVE):
            tables = [_summed(tables)]
        return DayCounts(tuple(tables), spilled)

    def spill(self, folder: UPath, limit: int) -> DayCounts:
        """Move the counts to a file if they have more than `limit` entries."""
        if sum(map(len, self.tables)) <= limit:
            return self
        table = _summed(self.tables)
        if len(table) <= limit:
            return DayCounts((table,), self.spilled)
        return DayCounts((), (*self.spilled, _spilled(table, folder)))

    def by_range(self) -> Iterator[pa.Table]:
        """Add up one range of keys at a time; yields sorted tables."""
        for parts in by_range(self.tables, self.spilled):
            yield _summed(parts)


@dataclass(frozen=True)
class KeyEvents:
    """Items of each key's rows, with their times."""

    tables: tuple[pa.Table, ...]
    """key uint64, time int64 (microseconds since 1970), token string; each sorted by all three."""
    spilled: tuple[str, ...] = ()
    """Files with further rows, see `nightbid.features.key_ranges`."""

    @classmethod
    def of(
        cls,
        keys: Hashes,
        items: tuple[npt.NDArray[np.int32], pa.Array],
        rows: pa.Table,
        *,
        positive: bool,
    ) -> KeyEvents:
        """Collect the rows that hold an item.

        Args:
            keys: Hash of each row's key, uint64 [rows].
            items: Codes [rows] and tokens of the item column, see `nightbid.column_parsing.encode`.
            rows: Rows with the reserved columns.
            positive: Keep only rows whose label is above 0.
        """
        codes, tokens = items
        is_kept = codes >= 0
        if positive:
            is_kept &= np.asarray(rows[LABEL], np.float64) > 0
        table = pa.table(
            {
                "key": keys[is_kept],
                "time": moments_of(whole(rows[TIME]))[is_kept],
                "token": tokens.take(pa.array(codes[is_kept])),
            }
        )
        return cls((_sorted([table]),))

    def merge(self, other: KeyEvents) -> KeyEvents:
        """Merge both sets of rows."""
        return KeyEvents((*self.tables, *other.tables), (*self.spilled, *other.spilled))

    def spill(self, folder: UPath, limit: int) -> KeyEvents:
        """Move the rows to a file if there are more than `limit`."""
        if sum(map(len, self.tables)) <= limit:
            return self
        return KeyEvents((), (*self.spilled, _spilled(_sorted(self.tables), folder)))

    def by_range(self) -> Iterator[pa.Table]:
        """Sort one range of keys at a time; yields sorted tables."""
        for parts in by_range(self.tables, self.spilled):
            yield _sorted(parts)


def _counted(rows: pa.Table) -> pa.Table:
    """Add up rows in any order by key and day."""
    names = ["weight", "positives"]
    grouped = rows.group_by(["key", "day"]).aggregate([(name, "sum") for name in names])
    grouped = grouped.rename_columns({f"{name}_sum": name for name in names})
    return (
        grouped.select(["key", "day", *names])
        .sort_by([("key", "ascending"), ("day", "ascending")])
        .combine_chunks()
    )


def _summed(tables: Sequence[pa.Table]) -> pa.Table:
    """Add up tables that are each sorted by key and day."""
    if len(tables) == 1:
        return tables[0].combine_chunks()
    columns = [
        np.concatenate([np.asarray(whole(table[name])) for table in tables])
        for name in DAY_COUNTS.names
    ]
    # Sorting merges the tables: NumPy's stable sorts take advantage of presorted runs.
    order = np.lexsort((columns[1], columns[0]))
    keys, days, *values = (column[order] for column in columns)
    is_first = np.append(True, (keys[1:] != keys[:-1]) | (days[1:] != days[:-1]))[: len(keys)]
    first = np.flatnonzero(is_first)
    if len(first) < len(keys):
        keys, days = keys[first], days[first]
        values = [np.add.reduceat(column, first) for column in values]
    return pa.table([keys, days, *values], schema=DAY_COUNTS)


def _sorted(tables: Sequence[pa.Table]) -> pa.Table:
    table = pa.concat_tables(tables)
    order = [("key", "ascending"), ("time", "ascending"), ("token", "ascending")]
    return table.sort_by(order).combine_chunks()


def _spilled(table: pa.Table, folder: UPath) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{uuid.uuid4().hex}.parquet"
    with (
        path.open("wb") as stream,
        pq.ParquetWriter(stream, table.schema, use_dictionary=False) as writer,
    ):
        write_by_range([table], writer)
    return str(path)
