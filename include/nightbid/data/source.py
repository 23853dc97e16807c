"""What every source of logs offers: days of Arrow record batches, and what their columns mean."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Protocol, runtime_checkable

import pyarrow as pa

from nightbid.config import sources as blocks
from nightbid.config.sources import Source as SourceBlock
from nightbid.data.source_schema import SourceSchema


class Source(Protocol):
    """Day-partitioned logs."""

    meaning: SourceSchema

    def days(self) -> tuple[date, ...] | None:
        """Every day that is there, oldest first; None if any day can be made."""
        ...

    def batches(self, day: date) -> Iterator[pa.RecordBatch]:
        """Rows of one day.

        Raises:
            MissingDataError: there is no such day, or a file of it is gone.
            CorruptDataError: a file cannot be read as what it claims to be.
        """
        ...

    def fingerprint(self, days: tuple[date, ...]) -> str:
        """Tell the content of these days apart from other content, without reading it all."""
        ...

    def identity(self, day: date, digest: Callable[[Path], str]) -> dict[str, str]:
        """Say what the rows of one day depend on, beside the settings: equal values, equal rows.

        Args:
            day: which.
            digest: of a file's bytes.

        Returns:
            `logs`, a digest of the day's bytes; and `types`, JSON, where types of columns were
            settled over all files of the window.
        """
        ...


class UnitOfLogs(Protocol):
    """Some rows of a day, which can be read in another process."""

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Rows, as `Source.batches` has them."""
        ...

    def figures(self) -> dict[str, float]:
        """What a join of events found once the rows were read; empty where none are joined."""
        ...


@runtime_checkable
class Splits(Protocol):
    """A source whose days can be read in pieces."""

    def units(self, day: date) -> Sequence[UnitOfLogs]:
        """Cut a day; rows in the order of units are the day's. None: it is read as a whole."""
        ...


@runtime_checkable
class JoinsEvents(Protocol):
    """A source that joins events to its rows, and counts what it met."""

    def figures(self, day: date) -> dict[str, float]:
        """Counts and delays of a day whose `batches` were read to their end."""
        ...

    def not_there(self, day: date) -> list[str]:
        """Which streams of which days the rows of a day wait for."""
        ...


def open_source(
    block: SourceBlock,
    cache: Path,
    days: Collection[date] = (),
    named: Collection[str] | None = None,
) -> Source:
    """Open the source that a pipeline's `source` block describes.

    Args:
        block: the typed block.
        cache: folder for downloads, and for what was found in large files.
        days: the window that will be read; a folder's columns have one type in all its files.
        named: columns that the pipeline names. Of a folder's others at most
            `window_columns.OTHER_COLUMNS` are read, and nothing in them is an error. Default: all
            are named.

    Raises:
        DataError: the source is not where the block says.
    """
    # Imported here: a pipeline needs one source, not the libraries of all.
    if isinstance(block, blocks.SimulatorSource):
        from nightbid.data.simulator.source import SimulatorLogs

        return SimulatorLogs(block)
    if isinstance(block, blocks.KuaiRandSource):
        from nightbid.data.kuairand import KuaiRandLogs

        return KuaiRandLogs(block)
    if isinstance(block, blocks.ObdSource):
        from nightbid.data.obd import ObdLogs

        return ObdLogs(block, cache)
    if isinstance(block, blocks.EventsSource):
        from nightbid.data.events import EventLogs

        return EventLogs(block, days, cache, named)
    from nightbid.data.folder import FolderLogs

    return FolderLogs(block, days, cache, named)


class WholeDay:
    """A day of a source that is not cut; another process opens the source itself.

    Args:
        day: which.
        source: opened, for this process.
        opened: what `open_source` was given.
    """

    def __init__(
        self,
        day: date,
        source: Source | None,
        opened: tuple[SourceBlock, Path, tuple[date, ...], frozenset[str] | None] | None = None,
    ) -> None:
        self._day, self._source, self._opened = day, source, opened

    def __reduce__(self) -> tuple[object, ...]:
        """Leave the opened source behind."""
        return WholeDay, (self._day, None, self._opened)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read the rows."""
        if self._source is None:
            assert self._opened is not None, "it cannot be opened here"
            self._source = open_source(*self._opened)
        return self._source.batches(self._day)

    def figures(self) -> dict[str, float]:
        """What a join of events found."""
        if isinstance(self._source, JoinsEvents):
            return self._source.figures(self._day)
        return {}
