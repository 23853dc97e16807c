"""CSV and TSV files, block by block: what cannot be read is set aside with a reason, never lost.

Fields are read as bytes and cast column by column. A line with the wrong number of fields becomes
a row of nulls, a value that does not cast becomes null; either way the row carries why in
`nb_reason`, and what stood there in `nb_text`. Every line of a file becomes a row or is an error.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv

from nightbid.config.sources import ColumnType
from nightbid.data.text_bytes import TextBytes, TextStream
from nightbid.data.text_values import (
    ARROW,
    LONGEST_TEXT,
    NULLS,
    Kind,
    TextFormat,
    kind_of,
    merge,
    typed,
)
from nightbid.errors import CorruptDataError, MissingDataError
from nightbid.schema import REASON, TEXT

BLOCK_BYTES = 8 << 20
"""Memory is a small multiple of it, whatever the size of the file."""
HEADER_BYTES = 1 << 16
UTF8 = ("utf-8", "utf8", "utf-8-sig", "ascii")
MOST_COLUMNS = 10_000
MALFORMED_BYTES = 256 << 20
"""Of lines on end with another number of fields than the header has: they are held until due."""
UNCLOSED = "holds whole lines: is a quotation mark never closed?"


@dataclass(frozen=True)
class Part:
    """A file, or a piece of it."""

    path: Path
    start: int = 0
    """Of lines: the first byte, with which a line starts. Of records: the first row group."""
    stop: int | None = None
    """Behind the last one; None: to the end."""
    names: tuple[str, ...] = ()
    """Columns in order, of a range of lines that the header stands before."""

    @property
    def size(self) -> int | None:
        """How many bytes or groups; None: up to the end."""
        return None if self.stop is None else self.stop - self.start


@dataclass(frozen=True)
class Dialect:
    """How a text file is cut into fields."""

    delimiter: str = ","
    quoting: bool = True
    """Fields may stand in quotation marks, and then hold delimiters and line breaks."""
    names: tuple[str, ...] = ()
    """Columns in order if the file has no header."""
    encoding: str = "utf-8"
    style: TextFormat = field(default_factory=TextFormat)


def kinds(part: Part, dialect: Dialect, known: dict[str, Kind]) -> dict[str, Kind]:
    """Widen the kinds of columns so that they hold every value of a file.

    Args:
        part: what to read.
        dialect: how.
        known: kinds that hold for files seen before; only these columns are looked at.

    Returns:
        Kinds that hold for this file too.
    """
    found = dict(known)
    columns = columns_of(part, dialect)
    open_ = [name for name in columns if name in found and found[name] != "string"]
    if not open_:
        return found
    convert = pcsv.ConvertOptions(
        null_values=list(NULLS),
        strings_can_be_null=True,
        column_types=dict.fromkeys(columns, pa.binary()),
        include_columns=open_,
    )
    with _opened(part, dialect) as stream:
        for batch in _batches(_reader(stream, part, dialect, convert, _Malformed()), part, dialect):
            for name in open_:
                if found[name] != "string":
                    found[name] = merge(found[name], kind_of(batch[name], dialect.style))
            if all(found[name] == "string" for name in open_):
                break
    return found


def columns_of(part: Part, dialect: Dialect) -> list[str]:
    """Columns of a file, in order; none of an empty one.

    Raises:
        CorruptDataError: two columns have one name, or the header is not text.
    """
    with _opened(part, dialect) as stream:
        line = bytes(stream.read(HEADER_BYTES))
        if b"\n" not in line and len(line) == HEADER_BYTES:
            line += bytes(stream.read(BLOCK_BYTES))
    if not line:
        return []
    start, first = line[:2], line.partition(b"\n")[0]
    if (count := first.count(dialect.delimiter.encode()) + 1) > MOST_COLUMNS:
        # Arrow would take memory for each of them, and end the process where there is none.
        raise CorruptDataError(
            f"has {count:,} columns, at most {MOST_COLUMNS:,} can be read",
            where=str(part.path),
            hint="check source.delimiter; or write fewer columns, for example a list of ids as one",
        )
    if dialect.encoding.lower() in UTF8 and start in (b"\xff\xfe", b"\xfe\xff"):
        raise _corrupt(part, dialect, UnicodeError("it begins as UTF-16 does"))
    try:
        names = _names(part, dialect, HEADER_BYTES)
    except CorruptDataError:  # the first lines may be longer
        names = _names(part, dialect, BLOCK_BYTES)
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise CorruptDataError(
            f"two columns are called {twice[0]!r}",
            where=str(part.path),
            hint="name them apart in the header",
        )
    return names


def _names(part: Part, dialect: Dialect, block: int) -> list[str]:
    """Names of the first line, of a file of which one block is looked at."""
    try:
        with _opened(part, dialect) as stream:
            return list(_reader(stream, part, dialect, None, _Malformed(), block).schema.names)
    except UnicodeDecodeError as error:
        raise _corrupt(part, dialect, error) from error


def read(
    part: Part,
    dialect: Dialect,
    types: Mapping[str, ColumnType],
    chosen: Collection[str] | None = None,
) -> Iterator[pa.Table]:
    """Read a file block by block.

    Args:
        part: what to read.
        dialect: how.
        types: of the columns; a column without one is a string.
        chosen: columns to read; default: all that have a name.

    Yields:
        Tables of these columns, and of `nb_reason` and `nb_text`, null where
        nothing is wrong.

    Raises:
        CorruptDataError: the file ends in the middle of its compression, is not text, has two
            columns of one name, or lines of it went missing.
        MissingDataError: the file is gone.
    """
    every = columns_of(part, dialect)
    if not every:
        return  # jobs leave such files where they had no row to write
    fields = [name for name in every if name]  # nothing can ask for a column without a name
    columns = [name for name in fields if chosen is None or name in chosen]
    convert = pcsv.ConvertOptions(
        null_values=list(NULLS),
        strings_can_be_null=True,
        column_types=dict.fromkeys(fields, pa.binary()),
        include_columns=fields,
    )
    lines = _Malformed()
    good, breaks, header = 0, 0, 0 if dialect.names else 1
    with _opened(part, dialect) as stream:
        reader = _reader(stream, part, dialect, convert, lines)
        for batch in _batches(reader, part, dialect):
            good += batch.num_rows
            table = pa.Table.from_batches([batch])
            inside = _line_breaks(table) if dialect.quoting else 0
            breaks += inside
            rows = typed(table.select(columns), types, dialect.style)
            yield _whole_lines(rows, table, dialect, len(every)) if inside else rows
            # The reader runs ahead by chance; when a line is told of must not depend on that. Its
            # number says how many good rows stand before it: it is due once those have been.
            due = lines.due(good + header)
            if due:
                yield _malformed(due, columns, types)
        count = stream.lines
    if due := lines.due():
        yield _malformed(due, columns, types)
    breaks += lines.breaks
    seen = good + lines.count + breaks + header
    if count > seen and (count := _lines_with_text(part, dialect)) > seen:
        raise CorruptDataError(
            f"has {count:,} lines, of which {seen:,} became rows",
            where=str(part.path),
            hint="set source.quoting: false if fields never stand in quotation marks",
        )


class _Malformed:
    """Lines with the wrong number of fields, until their turn among the good ones has come."""

    def __init__(self) -> None:
        self.count = 0
        """All so far."""
        self.breaks = 0
        """Line breaks inside of them."""
        self._waiting: deque[pcsv.InvalidRow] = deque()
        self._told = 0
        self._bytes = 0

    def keep(self, line: pcsv.InvalidRow) -> str:
        """Take one, as the reader tells of it."""
        self.count += 1
        self.breaks += line.text.count("\n")
        self._bytes += len(line.text) + 100
        if self._bytes > MALFORMED_BYTES:
            return "error"
        self._waiting.append(line)
        return "skip"

    def due(self, before: int | None = None) -> list[pcsv.InvalidRow]:
        """Give those whose number says that at most so many good rows stand before them."""
        found = []
        while self._waiting and (
            before is None or (self._waiting[0].number or 0) - 1 - self._told < before
        ):
            found.append(self._waiting.popleft())
            self._told += 1
            self._bytes -= len(found[-1].text) + 100
        return found


def _line_breaks(table: pa.Table) -> int:
    total = 0
    for column in table.columns:
        for chunk in column.chunks:
            values = chunk.buffers()[2]
            total += values.to_pybytes().count(b"\n") if values is not None else 0
    return total


def _whole_lines(rows: pa.Table, raw: pa.Table, dialect: Dialect, fields: int) -> pa.Table:
    """Set aside rows of which a field swallowed lines: a quotation mark was never closed."""
    reason, text = rows[REASON].combine_chunks(), rows[TEXT].combine_chunks()
    for name in raw.column_names:
        column = raw[name].combine_chunks()
        enough = pc.greater_equal(pc.count_substring(column, dialect.delimiter), fields - 1)
        suspects = np.flatnonzero(
            np.asarray(pc.fill_null(pc.and_(enough, pc.match_substring(column, "\n")), False))
        )
        mark = dialect.delimiter.encode()
        at = [
            row
            for row in suspects
            if any(line.count(mark) >= fields - 1 for line in column[row].as_py().split(b"\n"))
        ]
        if at and fields > 1:
            wrong = np.zeros(len(rows), bool)
            wrong[at] = True
            mask = pa.array(wrong)
            shown = [column[row].as_py()[:LONGEST_TEXT].decode("utf-8", "replace") for row in at]
            reason = pc.replace_with_mask(reason, mask, pa.array([f"{name} {UNCLOSED}"] * len(at)))
            text = pc.replace_with_mask(text, mask, pa.array(shown))
    place = rows.column_names.index(REASON)
    rows = rows.set_column(place, REASON, reason)
    return rows.set_column(rows.column_names.index(TEXT), TEXT, text)


def _lines_with_text(part: Part, dialect: Dialect) -> int:
    """Count the lines that are not blank: a second look, where the first did not add up."""
    count, rest = 0, b""
    with _opened(part, dialect) as stream:
        while chunk := stream.read(BLOCK_BYTES):
            *whole, rest = (rest + chunk).split(b"\n")
            count += sum(bool(line.strip(b"\r")) for line in whole)
    return count + bool(rest)


def _malformed(
    lines: Sequence[pcsv.InvalidRow], columns: Sequence[str], types: Mapping[str, ColumnType]
) -> pa.Table:
    """Rows of nulls that stand for lines with the wrong number of fields."""
    table: dict[str, pa.Array] = {
        name: pa.nulls(len(lines), ARROW[types.get(name, "string")]) for name in columns
    }
    table[REASON] = pa.array(
        [f"line has {line.actual_columns} fields, not {line.expected_columns}" for line in lines]
    )
    table[TEXT] = pa.array([line.text[:LONGEST_TEXT] for line in lines])
    return pa.table(table)


def _opened(part: Part, dialect: Dialect) -> TextStream:
    try:
        if part.stop is not None:
            stream = open(part.path, "rb")  # noqa: SIM115 - closed with the wrapper
            stream.seek(part.start)
            piece = TextBytes(stream, part.path, part.size)
            return TextStream.of(piece if part.start else piece.without_separator())
        source = pa.input_stream(str(part.path), compression="detect")
        if dialect.encoding.lower() not in UTF8:
            source = pa.transcoding_input_stream(source, dialect.encoding, "utf-8")
        return TextStream.of(TextBytes(source, part.path).without_separator())
    except FileNotFoundError as error:
        raise MissingDataError(
            "the file is gone", where=str(part.path), hint="load the day again"
        ) from error
    except UnicodeError as error:
        raise _corrupt(part, dialect, error) from error


def _reader(
    stream: pa.NativeFile,
    part: Part,
    dialect: Dialect,
    convert: pcsv.ConvertOptions | None,
    lines: _Malformed,
    block: int = 0,
) -> pcsv.CSVStreamingReader:
    try:
        return pcsv.open_csv(
            stream,
            # Threads would lose the numbers of the lines.
            read_options=pcsv.ReadOptions(
                column_names=list(dialect.names) or None,
                block_size=block or BLOCK_BYTES,
                use_threads=False,
            ),
            parse_options=pcsv.ParseOptions(
                delimiter=dialect.delimiter,
                quote_char='"' if dialect.quoting else False,
                # Else blocks are cut at line breaks inside of quotation marks too.
                newlines_in_values=dialect.quoting,
                invalid_row_handler=lines.keep,
            ),
            convert_options=convert,
        )
    except (pa.ArrowInvalid, OSError, UnicodeError, MemoryError) as error:
        raise _corrupt(part, dialect, error) from error


def _batches(
    reader: pcsv.CSVStreamingReader, part: Part, dialect: Dialect
) -> Iterator[pa.RecordBatch]:
    try:
        yield from reader
    except (pa.ArrowInvalid, OSError, UnicodeError, MemoryError) as error:
        raise _corrupt(part, dialect, error) from error


def _corrupt(part: Part, dialect: Dialect, error: Exception) -> CorruptDataError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    if isinstance(error, UnicodeError):
        return CorruptDataError(
            f"is not {dialect.encoding}: {reason}",
            where=str(part.path),
            hint="set source.encoding, for example latin-1 or utf-16",
        )
    if isinstance(error, MemoryError):
        return CorruptDataError(
            "a piece of it needs more memory than there is",
            where=str(part.path),
            hint="check source.delimiter and the number of its columns",
        )
    if "Expected " in reason and " columns, got " in reason:
        return CorruptDataError(
            f"{MALFORMED_BYTES >> 20} MiB of lines on end have another number of fields than its"
            " header",
            where=str(part.path),
            hint="check source.delimiter and the first line of the file",
        )
    if "straddling" in reason:
        return CorruptDataError(
            f"a line or a quoted field is longer than {BLOCK_BYTES >> 20} MiB:"
            f" {UNCLOSED.split(': ')[1]}",
            where=str(part.path),
            hint="set source.quoting: false if fields never stand in quotation marks",
        )
    return CorruptDataError(
        f"cannot be read as CSV: {reason}",
        where=str(part.path),
        hint="copy the file again; it may be cut off, empty or of another format",
    )
