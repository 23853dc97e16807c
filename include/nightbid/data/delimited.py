"""Reads CSV and TSV files block by block; unreadable lines are set aside with a reason, not lost.

Fields are read as bytes and cast column by column. A line with the wrong number of fields becomes
a row of nulls, and a value that does not cast becomes null. In both cases the row has the reason in
`nb_reason` and the original text in `nb_text`. Every line of a file becomes a row or is an error.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv

from nightbid.config.folder_source import ColumnType
from nightbid.counts import counted
from nightbid.data.bad_bytes import UTF8, Utf8Bytes, bad_byte_of, unmarked
from nightbid.data.malformed_lines import MALFORMED_BYTES, MalformedLines, malformed_rows
from nightbid.data.text_bytes import TextStream
from nightbid.data.text_files import QuotedText, open_text
from nightbid.data.text_values import (
    LONGEST_TEXT,
    NULLS,
    TextFormat,
    TextKind,
    kind_of,
    merge,
    typed,
)
from nightbid.errors import CorruptDataError, MissingDataError
from nightbid.schema import REASON, TEXT
from nightbid.shortages import remedy

BLOCK_BYTES = 8 << 20
"""Size of a block; memory is a small multiple of it, whatever the file's size."""
HEADER_BYTES = 1 << 16
MOST_COLUMNS = 10_000
UTF16 = ("\U0010ffff\U0010fffe", "\U0010fffe\U0010ffff")
"""First bytes of UTF-16, which are invalid in UTF-8, as marks."""
UNCLOSED = "holds whole lines: is a quotation mark never closed?"


@dataclass(frozen=True)
class FilePart:
    """A file, or a range of one."""

    path: Path
    start: int = 0
    """First byte (text files; must begin a line) or first row group (record files)."""
    stop: int | None = None
    """End of the range, exclusive; None: the end of the file."""
    names: tuple[str, ...] = ()
    """Columns in order, for a range of lines that does not include the header."""

    @property
    def size(self) -> int | None:
        """Number of bytes or row groups; None: up to the end."""
        return None if self.stop is None else self.stop - self.start


@dataclass(frozen=True)
class Dialect:
    """How a text file is divided into fields."""

    delimiter: str = ","
    quoting: bool = True
    """Whether fields may be in quotation marks and then contain delimiters and line breaks."""
    names: tuple[str, ...] = ()
    """Columns in order, if the file has no header."""
    encoding: str = "utf-8"
    backslash: bool = False
    """Whether a quotation mark within a quoted field follows a backslash; else it is doubled."""
    style: TextFormat = field(default_factory=TextFormat)


def kinds(part: FilePart, dialect: Dialect, known: dict[str, TextKind]) -> dict[str, TextKind]:
    """Widen the kinds of columns so that they can hold every value of a file.

    Args:
        part: File or range to read.
        dialect: Delimiter, quoting and encoding.
        known: Kinds that fit the files read before; only these columns are checked.

    Returns:
        Kinds that also fit this file.
    """
    widened = dict(known)
    columns = columns_of(part, dialect)
    open_ = [name for name in columns if name in widened and widened[name] != "string"]
    if not open_:
        return widened
    convert = pcsv.ConvertOptions(
        null_values=list(NULLS),
        strings_can_be_null=True,
        column_types=dict.fromkeys(columns, pa.binary()),
        include_columns=open_,
    )
    with _opened(part, dialect) as stream:
        lines = MalformedLines()
        reader = _reader(stream, part, dialect, convert, lines)
        for batch in _batches(reader, stream, part, dialect, lines):
            batch = _without_headers(batch)
            for name in open_:
                if widened[name] != "string":
                    widened[name] = merge(widened[name], kind_of(batch[name], dialect.style))
            if all(widened[name] == "string" for name in open_):
                break
    return widened


def _without_headers(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Leave out lines that repeat the header, as in concatenated files."""
    same = None
    for name in batch.schema.names if batch.num_columns > 1 else []:
        is_name = pc.fill_null(pc.equal(batch[name], pa.scalar(name.encode(), pa.binary())), False)
        same = is_name if same is None else pc.and_(same, is_name)
        if not pc.any(same).as_py():
            return batch
    return batch if same is None else batch.filter(pc.invert(same))


def columns_of(part: FilePart, dialect: Dialect) -> list[str]:
    """Columns of a file, in order; an empty file has none.

    Raises:
        CorruptDataError: Two columns have the same name, or the header is not text.
    """
    with _opened(part, dialect) as stream:
        line = bytes(stream.read(HEADER_BYTES))
        if b"\n" not in line and len(line) == HEADER_BYTES:
            line += bytes(stream.read(BLOCK_BYTES))
    if not line:
        return []
    start, first = line[:8].decode("utf-8", "ignore"), line.partition(b"\n")[0]
    if (count := first.count(dialect.delimiter.encode()) + 1) > MOST_COLUMNS:
        # Arrow allocates memory for each column and ends the process when there is none left.
        raise CorruptDataError(
            f"has {count:,} columns, at most {MOST_COLUMNS:,} can be read",
            where=str(part.path),
            hint="check source.delimiter; or write fewer columns, for example a list of ids as one",
        )
    if dialect.encoding.lower() in UTF8 and start in UTF16:
        raise _corrupt(part, dialect, UnicodeError("it looks like UTF-16"))
    try:
        names = _names(part, dialect, HEADER_BYTES)
    except CorruptDataError:  # the first lines may be longer
        names = _names(part, dialect, BLOCK_BYTES)
    if (bad := bad_byte_of("".join(names))) is not None:
        raise _corrupt(part, dialect, UnicodeError(f"a column name has the byte 0x{bad:02x}"))
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise CorruptDataError(
            f"two columns are called {twice[0]!r}",
            where=str(part.path),
            hint="give them different names in the header",
        )
    return names


def _names(part: FilePart, dialect: Dialect, block: int) -> list[str]:
    """Read the column names from the first line, with a given block size."""
    with _opened(part, dialect) as stream:
        return list(_reader(stream, part, dialect, None, MalformedLines(), block).schema.names)


def read(
    part: FilePart,
    dialect: Dialect,
    types: Mapping[str, ColumnType],
    chosen: Collection[str] | None = None,
) -> Iterator[pa.Table]:
    """Read a file block by block.

    Args:
        part: File or range to read.
        dialect: Delimiter, quoting and encoding.
        types: Types of the columns; a column without an entry is a string.
        chosen: Columns to read; None: all columns that have a name.

    Yields:
        Tables of these columns, plus `nb_reason` and `nb_text`, which are null for readable rows.

    Raises:
        CorruptDataError: The compressed data is truncated, the file is not text, two columns have
            the same name, or some lines did not become rows.
        MissingDataError: The file is gone.
    """
    every = columns_of(part, dialect)
    if not every:
        return  # jobs without rows write empty files
    fields = [name for name in every if name]  # unnamed columns cannot be selected
    columns = [name for name in fields if chosen is None or name in chosen]
    convert = pcsv.ConvertOptions(
        null_values=list(NULLS),
        strings_can_be_null=True,
        column_types=dict.fromkeys(fields, pa.binary()),
        include_columns=fields,
    )
    lines = MalformedLines()
    good, breaks, header = 0, 0, 0 if dialect.names else 1
    with _opened(part, dialect) as stream:
        reader = _reader(stream, part, dialect, convert, lines)
        for batch in _batches(reader, stream, part, dialect, lines):
            good += batch.num_rows
            table = pa.Table.from_batches([batch])
            inside = _line_breaks(table) if dialect.quoting else 0
            breaks += inside
            rows = typed(table.select(columns), types, dialect.style)
            yield _whole_lines(rows, table, dialect, len(every)) if inside else rows
            # The reader reads ahead by an amount that varies, but the order of rows must not depend
            # on it. A line's number says how many good rows precede it: it is due once those have
            # been yielded.
            due = lines.due(good + header)
            if due:
                yield malformed_rows(due, columns, types)
        count = stream.lines
    if due := lines.due():
        yield malformed_rows(due, columns, types)
    breaks += lines.breaks
    seen = good + lines.count + breaks + header
    if count > seen and (count := _lines_with_text(part, dialect)) > seen:
        raise CorruptDataError(
            f"has {counted(count, 'line')}, of which {seen:,} became rows",
            where=str(part.path),
            hint="set source.quoting: false if fields never stand in quotation marks",
        )


def _line_breaks(table: pa.Table) -> int:
    total = 0
    for column in table.columns:
        for chunk in column.chunks:
            values = chunk.buffers()[2]
            total += values.to_pybytes().count(b"\n") if values is not None else 0
    return total


def _whole_lines(rows: pa.Table, raw: pa.Table, dialect: Dialect, fields: int) -> pa.Table:
    """Set aside rows with a field that swallowed lines: a quotation mark was never closed."""
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


def _lines_with_text(part: FilePart, dialect: Dialect) -> int:
    """Count the lines that are not blank, in a second pass when the first count does not add up."""
    count, rest = 0, b""
    with _opened(part, dialect) as stream:
        while chunk := stream.read(BLOCK_BYTES):
            *whole, rest = (rest + chunk).split(b"\n")
            count += sum(bool(line.strip(b"\r")) for line in whole)
    return count + bool(rest)


def _opened(part: FilePart, dialect: Dialect) -> TextStream:
    try:
        if part.stop is not None:
            stream = open(part.path, "rb")  # noqa: SIM115 - closed with the wrapper
            stream.seek(part.start)
            utf8 = Utf8Bytes(stream, dialect.encoding, part.size)
            return TextStream.of(utf8, part.path, is_start=not part.start)
        utf8 = Utf8Bytes(open_text(part.path), dialect.encoding)
        quoted = None
        if dialect.quoting:
            quoted = QuotedText(utf8, dialect.delimiter, backslash=dialect.backslash)
        return TextStream.of(utf8, part.path, quoted)
    except FileNotFoundError as error:
        raise MissingDataError(
            "the file is gone", where=str(part.path), hint="load the day again"
        ) from error
    except UnicodeError as error:
        raise _corrupt(part, dialect, error) from error


def _reader(
    stream: pa.NativeFile,
    part: FilePart,
    dialect: Dialect,
    convert: pcsv.ConvertOptions | None,
    lines: MalformedLines,
    block: int = 0,
) -> pcsv.CSVStreamingReader:
    try:
        return pcsv.open_csv(
            stream,
            # Threads would lose the line numbers.
            read_options=pcsv.ReadOptions(
                column_names=list(dialect.names) or None,
                block_size=block or BLOCK_BYTES,
                use_threads=False,
            ),
            parse_options=pcsv.ParseOptions(
                delimiter=dialect.delimiter,
                quote_char='"' if dialect.quoting else False,
                # Without it, blocks would also be split at line breaks inside quotation marks.
                newlines_in_values=dialect.quoting,
                invalid_row_handler=lines.keep,
            ),
            convert_options=convert,
        )
    except (pa.ArrowInvalid, OSError, UnicodeError, MemoryError) as error:
        raise _corrupt(part, dialect, error, lines) from error


def _batches(
    reader: pcsv.CSVStreamingReader,
    stream: TextStream,
    part: FilePart,
    dialect: Dialect,
    lines: MalformedLines,
) -> Iterator[pa.RecordBatch]:
    try:
        for batch in reader:
            _refuse_backslashes(stream, part)
            yield unmarked(batch) if stream.utf8.has_marks else batch
        _refuse_backslashes(stream, part)
    except (pa.ArrowInvalid, OSError, UnicodeError, MemoryError) as error:
        raise _corrupt(part, dialect, error, lines) from error


def _refuse_backslashes(stream: TextStream, part: FilePart) -> None:
    """Raise an error if quoted fields contain backslashes before quotation marks."""
    if stream.quoted and stream.quoted.escaped:
        raise CorruptDataError(
            f"has a backslash before a quotation mark in the field {stream.quoted.escaped}…",
            where=str(part.path),
            hint="set source.quote_escape: backslash; or double the quotation marks in the file",
        )


def _corrupt(
    part: FilePart, dialect: Dialect, error: Exception, lines: MalformedLines | None = None
) -> CorruptDataError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    if isinstance(error, UnicodeError):
        return CorruptDataError(
            f"is not {dialect.encoding}: {reason}",
            where=str(part.path),
            hint="set source.encoding, for example latin-1 or utf-16",
        )
    if isinstance(error, MemoryError):
        return CorruptDataError(
            "a chunk of it does not fit in memory",
            where=str(part.path),
            hint="check source.delimiter and the number of its columns",
        )
    if lines and lines.is_full:
        return CorruptDataError(
            f"{MALFORMED_BYTES >> 20} MiB of consecutive lines do not have as many fields as the "
            "header",
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
        hint=remedy(error) or "copy the file again; it may be cut off, empty or of another format",
    )
