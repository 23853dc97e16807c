"""Reads a user's own folder of daily files in bounded memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.config.folder_source import FileKind, FolderSource
from nightbid.data import ipinyou
from nightbid.data.day_names import SPELLED, SUFFIXES, DayFiles, PartitionNames, is_format, scan
from nightbid.data.delimited import FilePart
from nightbid.data.folder_reader import FolderReader, need
from nightbid.data.layouts import LAYOUTS, avazu_time, criteo_days, single_file
from nightbid.data.places import Place, named_place, open_place
from nightbid.data.source_schema import SourceSchema
from nightbid.data.timed_files import RowDays, TimedFiles
from nightbid.data.units import FolderUnit, units_of
from nightbid.data.window_columns import OTHER_COLUMNS, WindowColumns
from nightbid.errors import CorruptDataError, DataError, MissingDataError
from nightbid.partitions import WEEKDAYS
from nightbid.time_parsing import as_time, local_time


class FolderLogs:
    """Daily partitions (`dt=YYYY-MM-DD/`) or daily files (`2026-01-01.csv.gz`).

    Args:
        block: The `source` block of the pipeline.
        days: Days of the window, over all of which a column has one type; empty: all days.
        cache: Cache folder for copies of remote files, and for the results of scans, so that each
            file is scanned once; None: no cache.
        named: Columns that the pipeline uses. At most `others` further columns are read, and one
            whose files disagree on its type is left out. None: every column is used.
        others: Maximum number of columns to read that the pipeline does not use.
    """

    def __init__(
        self,
        block: FolderSource,
        days: Collection[date] = (),
        cache: Path | None = None,
        named: Collection[str] | None = None,
        others: int = OTHER_COLUMNS,
    ) -> None:
        # Tables are read as lists of Parquet files.
        kind = block.kind
        self._kind: FileKind = (
            "parquet" if kind == "delta" or kind == "iceberg" or kind == "bigquery" else kind
        )
        self._block, self._days, self._cache = block, days, cache
        self._layout = LAYOUTS[block.layout]
        self._place = open_place(block.folder, cache, block.kind, _wanted(block, named))
        self._root = self._place.root
        self._columns = WindowColumns(
            block,
            self._kind,
            self._root,
            days=self._window,
            whole=lambda: self._whole,
            cache=cache,
            named=named,
            others=others,
        )
        outcomes = (
            *block.outcomes,
            *(block.renamed(name) for name in self._layout.outcomes),
        )
        self.meaning = SourceSchema(outcomes=frozenset(outcomes))

    def days(self) -> tuple[date, ...] | None:
        """All days that have a file, or at least a partition folder."""
        return tuple(sorted({*self._files, *self._timed.days(), *self._empty}))

    def files(self, day: date) -> list[Path]:
        """Files of one day in reading order; empty if the day has none."""
        parts = [*self._files.get(day, []), *self._clicks(day), *self._timed.parts(day)]
        return [part.path for part in parts]

    @property
    def place(self) -> Place:
        """Folder, bucket or table that holds the files."""
        return self._place

    def fingerprint(self, days: tuple[date, ...]) -> str:
        """Digest of the names, sizes and modification times of the days' files."""
        parts = [part for day in days for part in self._files.get(day, [])]
        parts += self._whole
        parts += [part for day in days for part in self._clicks(day)]
        stats: list[object] = []
        for part in parts:
            name = part.path.relative_to(self._root).as_posix()
            stats.append((name, part.start, part.stop, *self._place.version(part.path)))
        with suppress(DataError):  # reported by the stage that reads the rows
            # Rows are read again if the pipeline now uses a column that was left out or lost
            # values.
            stats += sorted(self._columns.chosen or ())
            named = {name for name in self._columns.mixed() if not self._columns.is_optional(name)}
            stats += [("mixed", name) for name in sorted(named)]
        return hashlib.sha256(repr(stats).encode()).hexdigest()

    def identity(self, day: date, digest: Callable[[Path], str]) -> dict[str, str]:
        """Digest of the bytes of the day's files in order, and the types of their columns.

        For files that hold many days it covers the day's rows instead: other rows do not affect it.
        """
        with named_place(self._place):
            return self._identity(day, digest)

    def _identity(self, day: date, digest: Callable[[Path], str]) -> dict[str, str]:
        parts = [*self._parts(day), *self._clicks(day)]
        parts = [part for part in parts if part.path.stat().st_size]
        bytes_: list[object] = [
            (digest(part.path), part.start, part.stop, *self._columns.partitions(part).items())
            for part in parts
        ]
        timed = self._timed.parts(day)
        bytes_ += [
            (rows, *self._columns.partitions(part).items())
            for part, rows in zip(timed, self._timed.digests(day), strict=True)
        ]
        parts += timed
        self._refuse_copies(day, parts, bytes_)
        digests = {"logs": hashlib.sha256(repr(bytes_).encode()).hexdigest()[:32]}
        types: Mapping[str, object] = (
            self._columns.text_types if self._kind == "csv" else self._columns.column_types
        )
        names = {name for part in parts for name in self._columns.names_in(part)}
        if self._kind == "jsonl":  # a day has every column of the window
            names |= set(types)
        type_names = {name: str(kind) for name, kind in types.items() if name in names}
        for name in self._columns.may_be_lost(parts) & type_names.keys():
            type_names[name] += " or null"
        return {**digests, "types": json.dumps(type_names, sort_keys=True)}

    def _refuse_copies(
        self, day: date, parts: Sequence[FilePart], bytes_: Sequence[object]
    ) -> None:
        """Refuse equal files of a day if keys are made, because no key shows that rows repeat.

        Raises:
            CorruptDataError: Two files have the same rows of the day.
        """
        if not self._block.make_key:
            return
        firsts: dict[object, FilePart] = {}
        for part, content in zip(parts, bytes_, strict=True):
            first = firsts.setdefault(content, part)
            if first is not part and any(len(table) for table in self._reader.raw(part)):
                names = " and ".join(
                    path.relative_to(self._place.root).as_posix()
                    for path in (first.path, part.path)
                )
                raise CorruptDataError(
                    f"{names} hold the same rows",
                    where=f"{self._block.folder}, {day}",
                    hint="move one out of the folder: with source.make_key, its rows would count"
                    " twice",
                )

    def batches(self, day: date) -> Iterator[pa.RecordBatch]:
        """Yield the rows of one day in the order of its files."""
        with named_place(self._place):
            for table in self._tables(day):
                yield from table.combine_chunks().to_batches()

    def units(self, day: date) -> tuple[FolderUnit, ...]:
        """Split a day into units that can be read separately; empty if it is read as a whole."""
        if self._block.layout != "plain" or day not in self._files:
            return ()
        with named_place(self._place):
            return units_of(
                self._reader,
                day,
                self._parts(day),
                self._columns.dialect,
                is_numbered=bool(self._block.make_key),
            )

    def _parts(self, day: date) -> list[FilePart]:
        """Files of a day, copied to this machine."""
        parts = self._files.get(day, [])
        self._place.fetch(part.path for part in parts)
        return parts

    def _tables(self, day: date) -> Iterator[pa.Table]:
        if day in self._timed.days():
            yield from self._of_many_days(day)
            return
        if day not in self._files:
            if day in self._empty:
                self._refuse_others(day)
                return
            known = self.days() or ()
            raise MissingDataError(
                f"there is no day {day}",
                where=str(self._root),
                hint=f"the days go from {known[0]} to {known[-1]}"
                if known
                else f"name days {SPELLED}",
            )
        if self._block.layout == "ipinyou":
            yield from self._with_clicks(day)
            return
        yield from self._reader.tables(day, self._parts(day))

    def _of_many_days(self, day: date) -> Iterator[pa.Table]:
        """Yield the rows of a day from files that hold several days."""
        read, first = 0, None
        for part, table in self._timed.tables(day):
            table = self._reader.finished(table, day, read)
            if first is None:
                first = part, table.schema
            else:
                table = self._reader.aligned(table, part, *first)
            yield table
            read += len(table)

    def _clicks(self, day: date) -> list[FilePart]:
        """Click logs that belong to a day's impressions, in layouts that have them."""
        if self._block.layout != "ipinyou" or day not in self._files:
            return []
        parts = ipinyou.click_files(self._scanned.files, day)
        self._place.fetch(part.path for part in parts)
        return parts

    def _with_clicks(self, day: date) -> Iterator[pa.Table]:
        """Yield a day's impressions with their clicks, then clicks without an impression."""
        clicks = pa.concat_tables(
            [table for part in self._clicks(day) for table in self._reader.raw(part)]
        )
        clicked = pc.unique(clicks["bid_id"].combine_chunks().drop_null())
        read, seen = 0, []
        for part in self._parts(day):
            for table in self._reader.raw(part):
                joined = ipinyou.with_clicks(table, clicked)
                seen.append(joined["bid_id"].filter(pc.equal(joined["click"], 1)))
                yield self._reader.finished(joined, day, read)
                read += len(table)
        won = pa.chunked_array([chunk for one in seen for chunk in one.chunks], pa.string())
        lost = ipinyou.orphans(ipinyou.with_clicks(clicks, clicked), won.combine_chunks())
        if len(lost):
            yield self._reader.finished(lost, day, read)

    def _refuse_others(self, day: date) -> None:
        """Accept an empty folder as an empty day; reject one with files of another format."""
        if names := self._empty[day]:
            kind = self._kind
            raise MissingDataError(
                f"the folder of {day} has no {kind} file; it has {', '.join(names[:5])}",
                where=str(self._root),
                hint=f"name the files *{SUFFIXES[kind][0]}, or set source.kind to what they are",
            )

    def _window(self) -> list[list[FilePart]]:
        """Files of each day of the window, oldest day first."""
        days = [self._files.get(day, []) for day in sorted(self._days or self._files)]
        self._place.fetch(part.path for day in days for part in day)
        return days

    @cached_property
    def _reader(self) -> FolderReader:
        """Reader with the columns and types of the window, which are determined once."""
        columns = self._columns
        is_text = self._kind == "csv"
        chosen, named = columns.chosen if is_text else None, columns.named
        return FolderReader(
            block=self._block,
            kind=self._kind,
            root=self._root,
            address=getattr(self._place, "address", ""),
            types=columns.text_types if is_text else columns.column_types,
            chosen=None if chosen is None else frozenset(chosen),
            named=None if named is None else frozenset(named),
        )

    @cached_property
    def _files(self) -> dict[date, list[FilePart]]:
        if self._block.layout == "criteo":
            self._place.fetch(path for path, _ in self._place.walk())
            return criteo_days(self._block, self._root)
        if self._block.day_column:
            return {}
        files = self._scanned.files
        if self._block.layout == "ipinyou":
            return ipinyou.impression_files(files)
        return {day: [FilePart(path) for path in paths] for day, paths in files.items()}

    @cached_property
    def _scanned(self) -> DayFiles:
        named = PartitionNames(self._block.partition, self._block.week_begins)
        return scan(self._place.walk(), self._kind, self._place.head, named)

    @cached_property
    def _empty(self) -> dict[date, list[str]]:
        """Days without a file of the format, and the names of the other files in their folders."""
        has_names = self._block.layout != "criteo" and not self._block.day_column
        return self._scanned.others if has_names else {}

    @cached_property
    def _whole(self) -> list[FilePart]:
        """Files whose rows state the day, sorted by name."""
        if self._block.day_column:
            paths = [path for path, name in self._place.walk() if not name.endswith("/")]
            head = self._place.head
            files = [path for path in sorted(paths) if is_format(path, self._kind, head)]
            self._place.fetch(files)
            return [FilePart(path) for path in files]
        if self._block.layout != "avazu" or self._files:
            return []
        self._place.fetch(path for path, _ in self._place.walk())
        return [FilePart(single_file(self._block, self._root))]

    @cached_property
    def _timed(self) -> TimedFiles:
        block = self._block
        return TimedFiles(
            self._whole,
            # Listing days needs no reader: it is created when a file is read.
            lambda part: self._reader.raw(part),
            partial(_partitions_of, block=block),
            self._cache,
            lambda: (
                block.model_dump_json(exclude={"folder"}),
                self._reader.types,
                sorted(self._reader.chosen or ()),
                sorted(self._reader.named or ()),
            ),
        )


def _wanted(block: FolderSource, named: Collection[str] | None) -> Callable[[str], bool] | None:
    """Filter for the columns to read from a table that charges by column; None: all."""
    if named is None:
        return None
    used = {*named, *block.types, *block.outcomes}
    read = used | {old for old, new in block.rename.items() if new in used}
    tops = {name.partition(".")[0] for name in read}  # read the object that holds a field
    return lambda name: name in read or name in tops


def _partitions_of(table: pa.Table, block: FolderSource) -> RowDays:
    """Start of each row's partition, from the row's time."""
    if block.layout == "avazu":
        time = _avazu_hours(table).cast(pa.timestamp("us"))
    else:
        need(table, [block.day_column], "source.day_column", block.folder)
        local = local_time(as_time(table[block.day_column], block.time_zone), block.time_zone)
        time = local.cast(pa.timestamp("us"))
    days = np.asarray(time).astype(
        "datetime64[h]" if block.partition == "hour" else "datetime64[D]"
    )
    if block.partition != "week":
        return days
    # 1970 began on a Thursday.
    weekday = (days.astype(np.int64) + 3 - WEEKDAYS.index(block.week_begins)) % 7
    monday: RowDays = days - np.where(np.isnat(days), 0, weekday).astype("timedelta64[D]")
    return monday


def _avazu_hours(table: pa.Table) -> pa.Array:
    if "hour" not in table.column_names:
        raise MissingDataError(
            "column 'hour' is missing",
            where="layout avazu",
            hint=f"the file has {', '.join(table.column_names[:8])}…",
        )
    return avazu_time(table["hour"])
