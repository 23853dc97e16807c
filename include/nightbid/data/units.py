"""Units of a day of logs: pieces that can be read apart, in any order and on any machine.

How a day is cut is a matter of its files alone: the same logs give the same units to every runner.
Parquet is cut between row groups, ORC between stripes, and JSON lines and delimited text between
lines, where every line is a record: no field stands in quotation marks. What is compressed as a
whole, and Avro, is read file by file. Small files are read together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.orc as orc
import pyarrow.parquet as pq

from nightbid.config.sources import FileKind
from nightbid.data.delimited import UTF8, Dialect, Part, columns_of
from nightbid.data.folder_reader import FolderReader
from nightbid.errors import DataError, NightbidError

UNIT_ROWS = 1 << 20
"""Rows of a unit where a file says how many it has."""
UNIT_BYTES = 128 << 20
"""Bytes of a unit elsewhere."""
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Piece:
    """A part of a file."""

    part: Part
    share: float
    """Of a unit."""
    rows: int | None = None
    """None: not known before it is read."""


@dataclass(frozen=True)
class FolderUnit:
    """Some of a day's files, or of their pieces; can be sent to another process."""

    reader: FolderReader
    day: date
    parts: tuple[Part, ...]
    first: int = 0
    """Rows of the day before them."""
    columns: tuple[Part, pa.Schema] | None = None
    """The first file of the day, and what its rows have; None: it is the first of these."""

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read the rows, in the order of the log.

        Raises:
            DataError: as `Source.batches`.
        """
        try:
            for table in self.reader.tables(self.day, self.parts, self.first, self.columns):
                yield from table.combine_chunks().to_batches()
        except DataError as error:
            raise self.reader.renamed_error(error) from error

    def figures(self) -> dict[str, float]:
        """Give nothing: no events are joined."""
        return {}


def units_of(
    reader: FolderReader,
    day: date,
    parts: Sequence[Part],
    dialect: Callable[[Part], Dialect],
    *,
    is_numbered: bool,
) -> tuple[FolderUnit, ...]:
    """Cut a day.

    Args:
        reader: of the window.
        day: which.
        parts: its files, on this machine.
        dialect: how a text file is to be read.
        is_numbered: rows have keys made of their number, so it must be known where a unit starts.
    """
    pieces = [piece for part in parts for piece in pieces_of(part, reader.kind, dialect)]
    if is_numbered and any(piece.rows is None for piece in pieces):
        return (FolderUnit(reader, day, tuple(parts)),)
    groups: list[list[Piece]] = []
    for piece in pieces:
        if not groups or sum(each.share for each in groups[-1]) + piece.share > 1:
            groups.append([])
        groups[-1].append(piece)
    if len(groups) < 2:
        return (FolderUnit(reader, day, tuple(parts)),)
    columns, first, units = None, 0, []
    for group in groups:
        unit = FolderUnit(reader, day, tuple(_joined(group)), first, columns)
        if columns is None and len(parts) > 1:
            # All files of a day have the columns of its first.
            table = next(reader.tables(day, unit.parts), None)
            columns = None if table is None else (parts[0], table.schema)
        units.append(unit)
        first += sum(piece.rows or 0 for piece in group)
    return tuple(units)


def _joined(group: Sequence[Piece]) -> Iterator[Part]:
    """Put adjacent row groups of a file together again: they are read as one."""
    last: Part | None = None
    for piece in group:
        part = piece.part
        if last and last.path == part.path and last.stop == part.start and last.stop is not None:
            last = Part(part.path, last.start, part.stop, last.names)
            continue
        if last:
            yield last
        last = part
    if last:
        yield last


def pieces_of(part: Part, kind: FileKind, dialect: Callable[[Part], Dialect]) -> list[Piece]:
    """Cut a file where its format allows it; what cannot be read is left to the reader to name."""
    try:
        if kind in ("parquet", "orc"):
            return _groups(part, kind) or [Piece(part, 0.0, 0)]
        size = part.path.stat().st_size
        if size > UNIT_BYTES and part.stop is None and not _compressed(part.path):
            if kind == "jsonl":
                return _lines(part, size, ())
            if kind == "csv" and (names := _names(part, dialect(part))):
                return _lines(part, size, names)
    except (pa.ArrowException, OSError, NightbidError):
        return [Piece(part, 0.0)]
    return [Piece(part, (part.size or size) / UNIT_BYTES)]


def _groups(part: Part, kind: FileKind) -> list[Piece]:
    """Cut Parquet between row groups, ORC between stripes."""
    if kind == "parquet":
        found = pq.read_metadata(part.path)
        rows = [found.row_group(at).num_rows for at in range(found.num_row_groups)]
    else:
        file = orc.ORCFile(part.path)
        # Stripes say nothing of their rows: they are taken to be even, and are not counted.
        if file.nstripes > 1:
            share = file.nrows / file.nstripes / UNIT_ROWS
            return [Piece(Part(part.path, n, n + 1), share) for n in range(file.nstripes)]
        rows = [file.nrows] * file.nstripes
    return [
        Piece(Part(part.path, at, at + 1), count / UNIT_ROWS, count)
        for at, count in enumerate(rows)
    ]


def _names(part: Part, dialect: Dialect) -> tuple[str, ...]:
    """Columns of a text file in which every line is a record; none of others."""
    if dialect.encoding.lower() not in UTF8:
        return ()
    if dialect.quoting and _has_quotes(part.path, has_header=not dialect.names):
        return ()
    return tuple(columns_of(part, dialect))


def _has_quotes(path: Path, *, has_header: bool) -> bool:
    """Look for a quotation mark below the header, which may stand in some: it is one line."""
    with open(path, "rb") as stream:
        if has_header and stream.readline(_CHUNK).count(b'"') % 2:
            return True
        while chunk := stream.read(_CHUNK):
            if b'"' in chunk:
                return True
    return False


def _lines(part: Part, size: int, names: tuple[str, ...]) -> list[Piece]:
    """Cut between lines, into even ranges."""
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
    # A line that is longer than a range leaves nothing for the next one.
    starts = [each for each in dict.fromkeys(bounds) if each < size]
    return [
        Piece(
            Part(part.path, start, stop, names if start else ()),
            (stop - start) / UNIT_BYTES,
        )
        for start, stop in zip(starts, [*starts[1:], size], strict=True)
    ]


def _compressed(path: Path) -> bool:
    """Tell by the name, as the readers do."""
    try:
        pa.Codec.detect(str(path))
    except (ValueError, TypeError):  # what it raises depends on the ending
        return False
    return True
