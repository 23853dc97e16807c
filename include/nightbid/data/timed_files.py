"""Files of which the rows' own times say the day: `source.day_column`, and Avazu's one file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import date
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nightbid.data.delimited import Part
from nightbid.storage.digests import kept_digest
from nightbid.storage.workspace import write_atomically

Days = npt.NDArray[np.datetime64]
Span = tuple[int, int]
"""First and last row of a file among which those of one day lie."""


class TimedFiles:
    """Finds and reads the rows of a day in files that hold many.

    Args:
        parts: The files, in their order.
        read: Reads a file as tables.
        days_of: Day of each row of a table, datetime64[D] [rows]; NaT where it is not known.
        cache: Folder for what was found, so that each file is looked through once; None: nowhere.
        meaning: Gives what `read` and `days_of` depend on, beside the files' bytes.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        read: Callable[[Part], Iterator[pa.Table]],
        days_of: Callable[[pa.Table], Days],
        cache: Path | None,
        meaning: Callable[[], object],
    ) -> None:
        self._parts, self._read, self._days_of = tuple(parts), read, days_of
        self._cache, self._meaning = cache, meaning

    @cached_property
    def _spans(self) -> dict[Part, dict[date, Span]]:
        return {part: self._spans_of(part) for part in self._parts}

    def days(self) -> list[date]:
        """Every day of which a row is there, oldest first."""
        return sorted({day for spans in self._spans.values() for day in spans})

    def parts(self, day: date) -> list[Part]:
        """Files that hold rows of a day, in their order."""
        return [part for part, spans in self._spans.items() if day in spans]

    def tables(self, day: date) -> Iterator[tuple[Part, pa.Table]]:
        """Read the rows of a day as they are in the files, file by file."""
        for part in self.parts(day):
            _, last = self._spans[part][day]
            row = 0
            for table, days in self._dated(part):
                if row > last:
                    break
                mine = table.filter(pa.array(days == np.datetime64(day)))
                row += len(table)
                if len(mine):
                    yield part, mine

    def _spans_of(self, part: Part) -> dict[date, Span]:
        """Look a file through for its days, once for its bytes, in bounded memory."""
        if self._cache is None:
            return self._look_through(part)
        content = kept_digest(part.path, self._cache)
        key = repr((content, part.start, part.stop, self._meaning()))
        path = self._cache / "spans" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
        with suppress(OSError, ValueError):
            known = json.loads(path.read_text())
            return {date.fromisoformat(day): (int(a), int(b)) for day, (a, b) in known.items()}
        found = self._look_through(part)
        text = json.dumps({day.isoformat(): span for day, span in found.items()})
        write_atomically(path, text)
        return found

    def _look_through(self, part: Part) -> dict[date, Span]:
        spans: dict[date, Span] = {}
        row = 0
        for table, days in self._dated(part):
            for day in np.unique(days[~np.isnat(days)]):
                rows = np.flatnonzero(days == day) + row
                key = day.astype(date)
                first = spans[key][0] if key in spans else int(rows[0])
                spans[key] = (first, int(rows[-1]))
            row += len(table)
        return spans

    def _dated(self, part: Part) -> Iterator[tuple[pa.Table, Days]]:
        """Tables with the day of each row; one without belongs to the day of the row before."""
        last = np.datetime64("NaT", "D")
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
