"""Merges tables sorted by key, one range of keys at a time.

Keys are hashes, so equal ranges hold about equally many keys: memory holds one range of all files,
whatever their size. Files are Parquet; a row group holds whole ranges.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from nightbid.column_parsing import Hashes, whole

RANGES = 64
GROUP_ROWS = 1 << 17
"""Minimum rows of a row group, except for the last."""
LIMITS = [(number + 1) << 58 for number in range(RANGES - 1)]
"""Upper bound, exclusive, of each range except the last."""


def keys_in(table: pa.Table) -> Hashes:
    """Return the keys of a table; uint64 [rows]."""
    return np.asarray(whole(table["key"]), np.uint64)


def by_range(tables: Iterable[pa.Table], files: Sequence[str]) -> Iterator[list[pa.Table]]:
    """Read tables and files range by range.

    Args:
        tables: Tables sorted by `key`.
        files: Files of `write_by_range`.

    Yields:
        The non-empty parts of each range, one per table or file; without files, everything is one
        range.
    """
    with ExitStack() as stack:
        sources = [_SortedTable(iter([table])) for table in tables]
        sources += [_SortedTable(_groups(path, stack)) for path in files]
        for limit in [*(LIMITS if files else ()), None]:
            parts = [part for source in sources for part in source.below(limit)]
            if parts:
                yield parts


def write_by_range(
    ranges: Iterable[pa.Table], writer: pq.ParquetWriter, metadata: dict[bytes, bytes] | None = None
) -> None:
    """Write sorted tables, one per range, so that the bytes depend only on the rows."""
    for group in _together(cut for table in ranges for cut in _cut(table)):
        writer.write_table(group.replace_schema_metadata(metadata), row_group_size=2**30)


def _cut(table: pa.Table) -> Iterator[pa.Table]:
    """Split a sorted table at the limits of ranges."""
    keys = keys_in(table)
    ends = [*keys.searchsorted(np.array(LIMITS, np.uint64)).tolist(), len(table)]
    start = 0
    for end in ends:
        if end > start:
            yield table.slice(start, end - start)
        start = end


def _together(parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Concatenate parts up to the size of a row group."""
    pending: list[pa.Table] = []
    for part in parts:
        pending.append(part)
        if sum(map(len, pending)) >= GROUP_ROWS:
            yield pa.concat_tables(pending).combine_chunks()
            pending = []
    if pending:
        yield pa.concat_tables(pending).combine_chunks()


def _groups(path: str, stack: ExitStack) -> Iterator[pa.Table]:
    stream = stack.enter_context(UPath(path).open("rb"))
    file = stack.enter_context(pq.ParquetFile(stream))
    for number in range(file.num_row_groups):
        yield file.read_row_group(number).replace_schema_metadata(None)


class _SortedTable:
    """A sorted table that is read from the start, range by range."""

    def __init__(self, parts: Iterator[pa.Table]) -> None:
        self._parts = parts
        self._rest: pa.Table | None = None

    def below(self, limit: int | None) -> Iterator[pa.Table]:
        """Yield the remaining rows with keys below a limit; None: all of them."""
        while (table := self._next()) is not None:
            cut = len(table)
            if limit is not None:
                cut = int(keys_in(table).searchsorted(np.uint64(limit)))
            if cut:
                yield table.slice(0, cut)
            self._rest = table.slice(cut) if cut < len(table) else None
            if self._rest is not None:
                return

    def _next(self) -> pa.Table | None:
        return self._rest if self._rest is not None else next(self._parts, None)
