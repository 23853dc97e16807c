"""Reads files whose rows' times state the day: `source.day_column`, and Avazu's one file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nightbid.data.delimited import FilePart
from nightbid.partitions import HourPartition, partition_of
from nightbid.storage.digests import kept_digest
from nightbid.storage.files import write_atomically

RowDays = npt.NDArray[np.datetime64]
BLOCK = 16_384
"""Number of a day's rows that are digested together."""


class FileSpan(NamedTuple):
    """Range of a file that contains the rows of one day: numbers of its first and last row."""

    first: int
    last: int
    digest: str
    """Digest of the day's rows, independent of the file's other rows."""


class TimedFiles:
    """Finds and reads the rows of a day in files that hold many days.

    Args:
        parts: The files, in order.
        read: Reads a file as tables.
        days_of: Returns the day of each row of a table, datetime64[D] [rows], or the hour,
            datetime64[h]; NaT if unknown.
        cache: Folder for the days found in files, so that each is scanned once; None: no cache.
        meaning: Returns what `read` and `days_of` depend on besides the files' bytes.
    """

    def __init__(
        self,
        parts: Sequence[FilePart],
        read: Callable[[FilePart], Iterator[pa.Table]],
        days_of: Callable[[pa.Table], RowDays],
        cache: Path | None,
        meaning: Callable[[], object],
    ) -> None:
        self._parts, self._read, self._days_of = tuple(parts), read, days_of
        self._cache, self._meaning = cache, meaning

    @cached_property
    def _spans(self) -> dict[FilePart, dict[date, FileSpan]]:
        return {part: self._spans_of(part) for part in self._parts}

    def days(self) -> list[date]:
        """All days that have a row, oldest first."""
        return sorted({day for spans in self._spans.values() for day in spans})

    def parts(self, day: date) -> list[FilePart]:
        """Files with rows of a day, in order."""
        return [part for part, spans in self._spans.items() if day in spans]

    def digests(self, day: date) -> list[str]:
        """Digests of a day's rows, one per file; rows of other days do not change them."""
        return [self._spans[part][day].digest for part in self.parts(day)]

    def tables(self, day: date) -> Iterator[tuple[FilePart, pa.Table]]:
        """Yield the rows of a day as they are in the files, file by file."""
        for part in self.parts(day):
            last = self._spans[part][day].last
            row = 0
            for table, days in self._dated(part):
                if row > last:
                    break
                day_rows = table.filter(pa.array(days == np.datetime64(day)))
                row += len(table)
                if len(day_rows):
                    yield part, day_rows

    def _spans_of(self, part: FilePart) -> dict[date, FileSpan]:
        """Scan a file for its days in bounded memory; the result is cached by content."""
        if self._cache is None:
            return self._look_through(part)
        content = kept_digest(part.path, self._cache)
        key = repr((content, part.start, part.stop, self._meaning()))
        path = self._cache / "spans" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
        with suppress(OSError, ValueError, TypeError):
            known = json.loads(path.read_text())
            return {partition_of(day): FileSpan(*span) for day, span in known.items()}
        spans = self._look_through(part)
        text = json.dumps({day.isoformat(): span for day, span in spans.items()})
        write_atomically(path, text)
        return spans

    def _look_through(self, part: FilePart) -> dict[date, FileSpan]:
        seen: dict[Any, _DayDigest] = {}
        row = 0
        for table, days in self._dated(part):
            for day in np.unique(days[~np.isnat(days)]):
                places = np.flatnonzero(days == day)
                day_rows = table if len(places) == len(table) else table.take(places)
                seen.setdefault(day, _DayDigest(row + int(places[0]))).add(
                    day_rows, row + int(places[-1])
                )
            row += len(table)
        return {_named(day): rows.span() for day, rows in seen.items()}

    def _dated(self, part: FilePart) -> Iterator[tuple[pa.Table, RowDays]]:
        """Yield tables with each row's day; a row without one gets the day of the row before it."""
        last = np.datetime64("NaT")
        for table in self._read(part):
            days = self._days_of(table)
            known = np.flatnonzero(~np.isnat(days))
            if len(known):
                before = np.searchsorted(known, np.arange(len(days)), side="right") - 1
                opening = days[known[0]] if np.isnat(last) else last
                days = np.where(before < 0, opening, days[known[np.maximum(before, 0)]])
                last = days[-1]
            else:
                days = np.full(len(days), last)
            yield table, days


def _named(start: Any) -> date:
    moment: date = start.item()
    return HourPartition.of(moment.date(), moment.hour) if isinstance(moment, datetime) else moment


class _DayDigest:
    """Digest of one day's rows, which are added one table at a time.

    Rows are digested in blocks of fixed size, so table boundaries do not matter.
    """

    def __init__(self, first: int) -> None:
        self._first = self._last = first
        self._digest = hashlib.sha256()
        self._waiting: list[pa.Table] = []

    def add(self, table: pa.Table, last: int) -> None:
        """Add rows; `last` is the number of the last one in the file."""
        self._last = last
        self._waiting.append(table)
        if sum(map(len, self._waiting)) >= BLOCK:
            rows = pa.concat_tables(self._waiting)
            whole = len(rows) // BLOCK * BLOCK
            for start in range(0, whole, BLOCK):
                self._add_block(rows.slice(start, BLOCK))
            self._waiting = [rows.slice(whole)]

    def span(self) -> FileSpan:
        """Return the span of the rows after all have been added."""
        if rows := sum(map(len, self._waiting)):
            self._add_block(pa.concat_tables(self._waiting).slice(0, rows))
        return FileSpan(self._first, self._last, self._digest.hexdigest()[:32])

    def _add_block(self, rows: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows.combine_chunks())
        self._digest.update(sink.getvalue())
