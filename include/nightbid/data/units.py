"""Splits a day of logs into units that can be read in any order and on any machine.

The split depends on the day's files only: the same logs give the same units on every runner.
Parquet is split between row groups, ORC between stripes, and JSON lines and delimited text between
lines, the latter only without quotation marks, so that every line is a record. Compressed text and
Avro are not split. Small files are read together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.orc as orc
import pyarrow.parquet as pq

from nightbid.config.folder_source import FileKind
from nightbid.data.bad_bytes import UTF8
from nightbid.data.delimited import Dialect, FilePart, columns_of
from nightbid.data.folder_reader import FolderReader
from nightbid.data.text_files import is_compressed
from nightbid.errors import DataError, NightbidError

UNIT_ROWS = 1 << 20
"""Rows per unit, for files that record their number of rows."""
UNIT_BYTES = 128 << 20
"""Bytes per unit, for other files."""
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Piece:
    """A range of a file that is not split further."""

    part: FilePart
    share: float
    """Size as a fraction of a unit."""
    rows: int | None = None
    """Number of rows; None: unknown until it is read."""


@dataclass(frozen=True)
class FolderUnit:
    """Some of a day's files or ranges of them; can be sent to another process."""

    reader: FolderReader
    day: date
    parts: tuple[FilePart, ...]
    first: int = 0
    """Number of the day's rows that precede the unit."""
    columns: tuple[FilePart, pa.Schema] | None = None
    """The day's first file and the schema of its rows; None: the unit's first file sets it."""

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows in the order of the log.

        Raises:
            DataError: As raised by `Source.batches`.
        """
        try:
            for table in self.reader.tables(self.day, self.parts, self.first, self.columns):
                yield from table.combine_chunks().to_batches()
        except DataError as error:
            raise self.reader.renamed_error(error) from error

    def figures(self) -> dict[str, float]:
        """Empty: folders join no events."""
        return {}


def units_of(
    reader: FolderReader,
    day: date,
    parts: Sequence[FilePart],
    dialect: Callable[[FilePart], Dialect],
    *,
    is_numbered: bool,
) -> tuple[FolderUnit, ...]:
    """Split a day into units.

    Args:
        reader: Reader with the window's columns and types.
        day: Day to split.
        parts: Files of the day, on this machine.
        dialect: Returns how a text file is read.
        is_numbered: Whether keys are made from row numbers, so that a unit's first row number must
            be known.
    """
    pieces = [piece for part in parts for piece in pieces_of(part, reader.kind, dialect)]
    if is_numbered and any(piece.rows is None for piece in pieces):
        return (FolderUnit(reader, day, tuple(parts)),)
    groups: list[list[Piece]] = []
    for piece in pieces:
        if not groups or sum(earlier.share for earlier in groups[-1]) + piece.share > 1:
            groups.append([])
        groups[-1].append(piece)
    if len(groups) < 2:
        return (FolderUnit(reader, day, tuple(parts)),)
    columns, first, units = None, 0, []
    for group in groups:
        unit = FolderUnit(reader, day, tuple(_joined(group)), first, columns)
        if columns is None and len(parts) > 1:
            # All files of a day have the columns of the first.
            table = next(reader.tables(day, unit.parts), None)
            columns = None if table is None else (parts[0], table.schema)
        units.append(unit)
        first += sum(piece.rows or 0 for piece in group)
    return tuple(units)


def _joined(group: Sequence[Piece]) -> Iterator[FilePart]:
    """Merge adjacent row groups of a file, which are read together."""
    last: FilePart | None = None
    for piece in group:
        part = piece.part
        if last and last.path == part.path and last.stop == part.start and last.stop is not None:
            last = FilePart(part.path, last.start, part.stop, last.names)
            continue
        if last:
            yield last
        last = part
    if last:
        yield last


def pieces_of(
    part: FilePart, kind: FileKind, dialect: Callable[[FilePart], Dialect]
) -> list[Piece]:
    """Split a file if its format allows it; an unreadable file is left to the reader to report."""
    try:
        if kind in ("parquet", "orc"):
            return _groups(part, kind) or [Piece(part, 0.0, 0)]
        size = part.path.stat().st_size
        if size > UNIT_BYTES and part.stop is None and not is_compressed(part.path):
            if kind == "jsonl":
                return _lines(part, size, ())
            if kind == "csv" and (names := _names(part, dialect(part))):
                return _lines(part, size, names)
    except (pa.ArrowException, OSError, NightbidError):
        return [Piece(part, 0.0)]
    return [Piece(part, (part.size or size) / UNIT_BYTES)]


def _groups(part: FilePart, kind: FileKind) -> list[Piece]:
    """Split Parquet between row groups, ORC between stripes."""
    if kind == "parquet":
        metadata = pq.read_metadata(part.path)
        rows = [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)]
    else:
        file = orc.ORCFile(part.path)
        # Stripes do not record their rows: equal sizes are assumed and row counts left unknown.
        if file.nstripes > 1:
            share = file.nrows / file.nstripes / UNIT_ROWS
            return [Piece(FilePart(part.path, n, n + 1), share) for n in range(file.nstripes)]
        rows = [file.nrows] * file.nstripes
    return [
        Piece(FilePart(part.path, at, at + 1), count / UNIT_ROWS, count)
        for at, count in enumerate(rows)
    ]


def _names(part: FilePart, dialect: Dialect) -> tuple[str, ...]:
    """Columns of a text file if each of its lines is a record, else empty."""
    if dialect.encoding.lower() not in UTF8:
        return ()
    if dialect.quoting and _has_quotes(part.path, has_header=not dialect.names):
        return ()
    return tuple(columns_of(part, dialect))


def _has_quotes(path: Path, *, has_header: bool) -> bool:
    """Search for quotation marks, other than balanced ones in the header line."""
    with open(path, "rb") as stream:
        if has_header and stream.readline(_CHUNK).count(b'"') % 2:
            return True
        while chunk := stream.read(_CHUNK):
            if b'"' in chunk:
                return True
    return False


def _lines(part: FilePart, size: int, names: tuple[str, ...]) -> list[Piece]:
    """Split between lines into ranges of about equal size."""
    count = -(-size // UNIT_BYTES)
    bounds = [0]
    with open(part.path, "rb") as stream:
        for at in range(1, count):
            stream.seek(max(size * at // count, bounds[-1]))
            while (chunk := stream.read(_CHUNK)) and b"\n" not in chunk:
                pass
            if not chunk:
                break
            bounds.append(stream.tell() - len(chunk) + chunk.index(b"\n") + 1)
    # A line longer than a range leaves the next range empty.
    starts = [bound for bound in dict.fromkeys(bounds) if bound < size]
    return [
        Piece(
            FilePart(part.path, start, stop, names if start else ()),
            (stop - start) / UNIT_BYTES,
        )
        for start, stop in zip(starts, [*starts[1:], size], strict=True)
    ]
