"""A table for any width: cells are folded or stacked if there is no room, never cut."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

LEAST = 14
"""Minimum width of a text column, in characters; narrower columns would be unreadable."""


def text_column(title: str) -> Column:
    """Make a column that may be folded."""
    return Column(title, overflow="fold")


class Listing(Table):
    """A table that stacks the cells of a row if they do not fit side by side.

    Columns made by `text_column` are folded first. All other cells stay on one line, so that users
    can copy them.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render as a table, without lines or as blocks, whichever fits first."""
        for layout, between in ((self, 3), (self._without_lines(), 1)):
            free = options.max_width - between * len(self.columns) - between // 3
            widths = self._widths(console, options, free)
            if widths is not None:
                for column, width in zip(layout.columns, widths, strict=True):
                    column.width = width
                yield from Table.__rich_console__(layout, console, options)
                return
        yield from self._blocks()

    def _without_lines(self) -> Table:
        plain = copy(self)
        plain.columns = [copy(column) for column in self.columns]
        plain.box, plain.padding, plain.header_style = None, (0, 1, 0, 0), "underline"
        return plain

    def _widths(self, console: Console, options: ConsoleOptions, free: int) -> list[int] | None:
        """Get the width of each column; None if even the minimum widths do not fit."""
        wide = options.update_width(100_000)
        natural, least = [], []
        for column in self.columns:
            header = Measurement.get(console, wide, column.header)
            cells = [Measurement.get(console, wide, cell).maximum for cell in column._cells]
            widest = max([header.minimum, *cells])
            natural.append(max(widest, header.maximum))
            least.append(min(widest, LEAST) if column.overflow == "fold" else widest)
        if sum(least) > free:
            return None
        if sum(natural) <= free:
            return natural
        return _shared(least, natural, free)

    def _blocks(self) -> RenderResult:
        for at in range(self.row_count):
            block = Table.grid(Column(no_wrap=True, style="dim"), Column(overflow="fold"),
                               padding=(0, 2, 0, 0))  # fmt: skip
            for column in self.columns:
                cell = column._cells[at]
                if str(cell):
                    block.add_row(str(column.header).replace("\n", " "), cell)
            yield block
            yield Text()


def _shared(least: Sequence[int], natural: Sequence[int], free: int) -> list[int]:
    """Share the width left over to the columns that are furthest below their natural width."""
    widths = list(least)
    for _ in range(free - sum(least)):
        lacking = [more - width for more, width in zip(natural, widths, strict=True)]
        widths[lacking.index(max(lacking))] += 1
    return widths
