"""Lines of text files with the wrong number of fields, which become rows with a reason."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.csv as pcsv

from nightbid.config.folder_source import ColumnType
from nightbid.counts import counted
from nightbid.data.bad_bytes import shown
from nightbid.data.text_values import ARROW, LONGEST_TEXT
from nightbid.schema import REASON, TEXT

MALFORMED_BYTES = 256 << 20
"""Limit on malformed lines in memory; they are buffered until their position is reached."""


class MalformedLines:
    """Lines with the wrong number of fields, held until their position among the good rows."""

    def __init__(self) -> None:
        self.count = 0
        """Number of malformed lines so far."""
        self.breaks = 0
        """Line breaks inside these lines."""
        self._waiting: deque[pcsv.InvalidRow] = deque()
        self._told = 0
        self._bytes = 0

    def keep(self, line: pcsv.InvalidRow) -> str:
        """Take a malformed line; Arrow calls this as `invalid_row_handler`."""
        self.count += 1
        self.breaks += line.text.count("\n")
        self._bytes += len(line.text) + 100
        if self.is_full:
            return "error"
        self._waiting.append(line)
        return "skip"

    @property
    def is_full(self) -> bool:
        """Whether the lines that wait exceed the limit."""
        return self._bytes > MALFORMED_BYTES

    def due(self, before: int | None = None) -> list[pcsv.InvalidRow]:
        """Return the lines that at most `before` good rows precede; None: all remaining lines."""
        lines = []
        while self._waiting and (
            before is None or (self._waiting[0].number or 0) - 1 - self._told < before
        ):
            lines.append(self._waiting.popleft())
            self._told += 1
            self._bytes -= len(lines[-1].text) + 100
        return lines


def malformed_rows(
    lines: Sequence[pcsv.InvalidRow], columns: Sequence[str], types: Mapping[str, ColumnType]
) -> pa.Table:
    """Build rows of nulls for lines with the wrong number of fields."""
    table: dict[str, pa.Array] = {
        name: pa.nulls(len(lines), ARROW[types.get(name, "string")]) for name in columns
    }
    table[REASON] = pa.array(
        [
            f"line has {counted(line.actual_columns, 'field')}, not {line.expected_columns}"
            for line in lines
        ]
    )
    table[TEXT] = pa.array([shown(line.text)[:LONGEST_TEXT] for line in lines])
    return pa.table(table)
