"""Sorted rows of keys that are read in place: their file is memory-mapped, not loaded.

There is one uncompressed Arrow file per feature, sorted by the hash of the key. Processes of one
machine share its pages, unused pages are never read, and the system may evict any of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from nightbid.column_parsing import Hashes, whole
from nightbid.features.values import Int32s, Ints

AT_ONCE = 1 << 20
"""Number of rows per step in a scan of all rows."""


class KeyedRows:
    """Finds the rows of keys before a moment by binary search."""

    def __init__(self, keys: Hashes, moments: Ints | Int32s) -> None:
        """Wrap arrays, without copying them.

        Args:
            keys: Keys of the entries, uint64 [entries], ascending.
            moments: Days or times of the entries, int32 or int64 [entries], ascending per key.
        """
        self._keys = keys
        self._moments = moments

    def before(self, keys: Hashes, moments: Ints | Int32s) -> tuple[Ints, Ints]:
        """Range of each key's entries strictly before a moment: [rows] first, one past the last.

        Args:
            keys: Keys to look up, uint64 [rows].
            moments: Moments, [rows], of the same type as those of the entries.
        """
        if len(keys) == 1:
            return self._before_one(keys[0], moments[0])
        # In key order, neighboring rows are found in the same pages.
        distinct, place = np.unique(keys, return_inverse=True)
        starts = self._keys.searchsorted(distinct)
        stops = self._keys.searchsorted(distinct, side="right")
        if len(moments) and (moments == moments[0]).all():
            # Rows of one day: each key is looked up once.
            ends = self._ends(starts, stops, np.full(len(distinct), moments[0]))
            return starts[place], ends[place]
        start, stop = starts[place], stops[place]
        return start, self._ends(start, stop, moments)

    def _ends(self, start: Ints, stop: Ints, moments: Ints | Int32s) -> Ints:
        """Index one past the last entry before a moment, among entries from start to stop."""
        end = stop.copy()
        # Usually a row needs all entries of its key.
        last = self._moments[np.maximum(stop - 1, 0)] if len(self._moments) else moments
        later = np.flatnonzero((stop > start) & (last >= moments))
        end[later] = self._first_from(start[later], stop[later] - 1, moments[later])
        return end

    def _before_one(self, key: np.uint64, moment: np.int32 | np.int64) -> tuple[Ints, Ints]:
        """`before` for a single key, as in a scoring request for one user."""
        start = self._keys.searchsorted(key)
        stop = self._keys.searchsorted(key, side="right")
        end = start + self._moments[start:stop].searchsorted(moment)
        return np.array([start]), np.array([end])

    def _first_from(self, low: Ints, high: Ints, moments: Ints | Int32s) -> Ints:
        """Index of the first entry at or after a moment, between low and high; high is one."""
        while (low < high).any():
            middle = (low + high) >> 1
            is_before = self._moments[middle] < moments
            low = np.where(is_before, middle + 1, low)
            high = np.where(is_before, high, middle)
        return low


def joined(parts: Iterable[pa.Table], schema: pa.Schema) -> pa.Table:
    """Concatenate tables of one schema, of numbers without nulls, into one chunk per column.

    Two or more are written to temporary files that are memory-mapped, so memory holds only one part
    at a time.
    """
    first: pa.Table | None = None
    paths: list[Path] = []
    with tempfile.TemporaryDirectory() as folder:
        for part in parts:
            if first is None:
                first = part
                continue
            if not paths:
                paths = [Path(folder, name) for name in schema.names]
                _append(first, paths)
            _append(part, paths)
        if not paths:
            return (schema.empty_table() if first is None else first).combine_chunks()
        columns = [
            pa.array(np.memmap(path, field.type.to_pandas_dtype(), "r"))
            for path, field in zip(paths, schema, strict=True)
        ]
    return pa.table(columns, schema=schema)


def _append(part: pa.Table, paths: list[Path]) -> None:
    for path, column in zip(paths, part.columns, strict=True):
        with path.open("ab") as stream:
            stream.write(np.ascontiguousarray(whole(column)).data)


def distinct_keys(table: pa.Table) -> int:
    """Count the distinct keys of a table that is sorted by key."""
    keys = np.asarray(whole(table["key"]), np.uint64)
    if not len(keys):
        return 0
    changes = (
        np.count_nonzero(np.diff(keys[start : start + AT_ONCE + 1]))
        for start in range(0, len(keys), AT_ONCE)
    )
    return 1 + int(sum(changes))


def write(table: pa.Table, path: Path) -> None:
    """Write a table, one chunk per column, for memory-mapping."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # processes that map the old file can still read it
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=max(len(table), 1))


def mapped(path: Path) -> pa.Table:
    """Memory-map the table of a file; it stays readable after the file is deleted."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()
