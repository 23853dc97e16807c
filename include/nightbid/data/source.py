"""Interface of log sources: days of Arrow record batches and the meaning of their columns."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Protocol, runtime_checkable

import pyarrow as pa

from nightbid.config import sources as blocks
from nightbid.config.event_source import EventsSource
from nightbid.config.sources import SourceBlock
from nightbid.data.source_schema import SourceSchema


class Source(Protocol):
    """Logs partitioned by day."""

    meaning: SourceSchema

    def days(self) -> tuple[date, ...] | None:
        """All available days, oldest first; None if any day can be generated."""
        ...

    def batches(self, day: date) -> Iterator[pa.RecordBatch]:
        """Yield the rows of one day.

        Raises:
            MissingDataError: There is no such day, or one of its files is gone.
            CorruptDataError: A file is not in the expected format.
        """
        ...

    def fingerprint(self, days: tuple[date, ...]) -> str:
        """Return a string that changes with the days' content, without reading all of it."""
        ...

    def identity(self, day: date, digest: Callable[[Path], str]) -> dict[str, str]:
        """Describe what a day's rows depend on besides the settings: equal values, equal rows.

        Args:
            day: Day to describe.
            digest: Returns the digest of a file's bytes.

        Returns:
            `logs`, a digest of the day's bytes; and, for sources that determine column types over
            all files of the window, `types` as JSON.
        """
        ...


class UnitOfLogs(Protocol):
    """Some rows of a day that can be read in another process."""

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows, as `Source.batches` does."""
        ...

    def figures(self) -> dict[str, float]:
        """Statistics of the event join, once the rows were read; empty if no events are joined."""
        ...


@runtime_checkable
class SplittableSource(Protocol):
    """A source whose days can be read in units."""

    def units(self, day: date) -> Sequence[UnitOfLogs]:
        """Split a day into units whose rows are in the day's order; empty: it is read whole."""
        ...


@runtime_checkable
class JoinsEvents(Protocol):
    """A source that joins events to its rows and counts them."""

    def figures(self, day: date) -> dict[str, float]:
        """Counts and delays of a day; available once its `batches` have been read to the end."""
        ...

    def not_there(self, day: date) -> list[str]:
        """Missing event logs, with their days, that the rows of a day need."""
        ...


def open_source(
    block: SourceBlock,
    cache: Path,
    days: Collection[date] = (),
    named: Collection[str] | None = None,
) -> Source:
    """Open the source that a pipeline's `source` block describes.

    Args:
        block: The `source` block of the pipeline.
        cache: Cache folder for downloads and for scans of large files.
        days: Days of the window, over all of which a folder's columns have one type; empty: all
            days.
        named: Columns that the pipeline uses. At most `window_columns.OTHER_COLUMNS` further
            columns of a folder are read, and problems in them are no errors. None: all columns are
            used.

    Raises:
        DataError: The source is not where the block says.
    """
    # Imported here: a pipeline needs the libraries of one source only.
    if isinstance(block, blocks.SimulatorSource):
        from nightbid.data.simulator.source import SimulatorLogs

        return SimulatorLogs(block)
    if isinstance(block, blocks.KuaiRandSource):
        from nightbid.data.kuairand import KuaiRandLogs

        return KuaiRandLogs(block)
    if isinstance(block, blocks.ObdSource):
        from nightbid.data.obd import ObdLogs

        return ObdLogs(block, cache)
    if isinstance(block, EventsSource):
        from nightbid.data.events import EventLogs

        return EventLogs(block, days, cache, named)
    from nightbid.data.folder import FolderLogs

    return FolderLogs(block, days, cache, named)


class WholeDay:
    """A whole day of a source that is not split; another process opens the source itself.

    Args:
        day: Day to read.
        source: Source opened in this process; None: it is opened when rows are read.
        opened: Arguments of `open_source`, for other processes.
    """

    def __init__(
        self,
        day: date,
        source: Source | None,
        opened: tuple[SourceBlock, Path, tuple[date, ...], frozenset[str] | None] | None = None,
    ) -> None:
        self._day, self._source, self._opened = day, source, opened

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle without the opened source."""
        return WholeDay, (self._day, None, self._opened)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read the rows."""
        if self._source is None:
            assert self._opened is not None, "it cannot be opened here"
            self._source = open_source(*self._opened)
        return self._source.batches(self._day)

    def figures(self) -> dict[str, float]:
        """Statistics of the event join; empty if no events are joined."""
        if isinstance(self._source, JoinsEvents):
            return self._source.figures(self._day)
        return {}
