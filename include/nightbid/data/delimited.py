"""CSV files, block by block: what cannot be read is set aside with a reason, never lost.

Fields are read as bytes and cast column by column. A line with the wrong number of fields becomes
a row of nulls, a value that does not cast becomes null; either way the row carries why in
`nb_reason`, and what stood there in `nb_text`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv

from nightbid.column_parsing import MICROSECOND, as_time
from nightbid.config.sources import ColumnType
from nightbid.errors import CorruptDataError, MissingDataError
from nightbid.schema import REASON, TEXT

BLOCK_BYTES = 8 << 20
"""Memory is a small multiple of it, whatever the size of the file."""
LONGEST_TEXT = 500
NULLS = ("", "\\N")
NUMBER_NULLS = (*NULLS, "null", "NULL", "None", "NaN", "nan", "NA", "N/A", "-")
"""Missing numbers, times and flags; in a string column NA may be Namibia."""
ARROW: dict[ColumnType, pa.DataType] = {
    "string": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "time": MICROSECOND,
}
CALLED = {"int": "a whole number", "float": "a number", "bool": "true or false", "time": "a time"}
PATTERN = {
    "int": r"^-?([0-9]{1,18}|0[xX][0-9a-fA-F]{1,15})$",
    "float": r"(?i)^-?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?$|^-?inf(inity)?$",
    "bool": r"(?i)^([01]|true|false)$",
}
"""What Arrow casts: a value must mean the same beside a bad one as beside good ones."""
LONG_INTEGER, LARGEST = r"^-?[0-9]{19}$", "9223372036854775807"
SECONDS = r"^[0-9]{9,16}(\.[0-9]+)?$"
"""Seconds, milliseconds or microseconds since 1970."""


@dataclass(frozen=True)
class Part:
    """A file, or a range of its bytes that starts and ends with a line."""

    path: Path
    start: int = 0
    stop: int | None = None


class _Range:
    """The bytes of a part as a file object for Arrow."""

    def __init__(self, stream: BinaryIO, start: int, stop: int) -> None:
        self._stream, self._left = stream, stop - start
        self.closed = False
        stream.seek(start)

    def read(self, size: int = -1) -> bytes:
        """Read on, up to the end of the range."""
        chunk = self._stream.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(chunk)
        return chunk

    def readable(self) -> bool:
        """Tell Arrow that it is an input."""
        return True

    def close(self) -> None:
        """Close the file."""
        self.closed = True
        self._stream.close()


def infer(part: Part, names: Sequence[str], delimiter: str) -> dict[str, ColumnType]:
    """Guess the type of every column from the first block of a file."""
    with _opened(part) as stream:
        reader = _reader(
            stream,
            part,
            names,
            delimiter,
            pcsv.ConvertOptions(null_values=list(NUMBER_NULLS), strings_can_be_null=True),
            [],
        )
        return {field.name: _kind(field.type) for field in reader.schema}


def _kind(kind: pa.DataType) -> ColumnType:
    if pa.types.is_integer(kind):
        return "int"
    if pa.types.is_floating(kind):
        return "float"
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "time"
    return "string"


def columns_of(part: Part, names: Sequence[str], delimiter: str) -> list[str]:
    """Columns of a file, in order."""
    with _opened(part) as stream:
        reader = _reader(stream, part, names, delimiter, pcsv.ConvertOptions(), [])
        return list(reader.schema.names)


def read(
    part: Part, names: Sequence[str], delimiter: str, types: Mapping[str, ColumnType]
) -> Iterator[pa.Table]:
    """Read a file block by block.

    Args:
        part: what to read.
        names: columns in order if the file has no header, else empty.
        delimiter: between fields.
        types: of the columns; a column without one is a string.

    Yields:
        Tables of all columns, and of `nb_reason` and `nb_text`, null where nothing is wrong.

    Raises:
        CorruptDataError: the file ends in the middle of its compression, or is not text.
        MissingDataError: the file is gone.
    """
    columns = columns_of(part, names, delimiter)
    convert = pcsv.ConvertOptions(
        null_values=list(NULLS),
        strings_can_be_null=True,
        column_types=dict.fromkeys(columns, pa.binary()),
    )
    lines: list[pcsv.InvalidRow] = []
    good, told, header = 0, 0, 0 if names else 1
    with _opened(part) as stream:
        reader = _reader(stream, part, names, delimiter, convert, lines)
        for batch in _batches(reader, part):
            good += batch.num_rows
            yield typed(pa.Table.from_batches([batch]), types)
            # The reader runs ahead by chance; when a line is told of must not depend on that. Its
            # number says how many good rows stand before it: it is due once those have been.
            due = told
            while due < len(lines) and (lines[due].number or 0) - 1 - header - due < good:
                due += 1
            if due > told:
                yield _malformed(lines[told:due], columns, types)
            told = due
    if len(lines) > told:
        yield _malformed(lines[told:], columns, types)


def typed(table: pa.Table, types: Mapping[str, ColumnType]) -> pa.Table:
    """Cast columns of bytes; what does not cast becomes null and sets its row aside.

    Args:
        table: binary columns.
        types: of the columns; a column without one is a string.
    """
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    reason = np.full(len(table), None, object)
    text = np.full(len(table), None, object)
    for name in table.column_names:
        kind = types.get(name, "string")
        column, wrong = _cast(table[name].combine_chunks(), kind)
        columns[name] = column
        if wrong.any():
            what = "not UTF-8" if kind == "string" else f"not {CALLED[kind]}"
            fresh = wrong & (reason == None)  # noqa: E711 - element by element
            reason[fresh] = f"{name} is {what}"
            stood = table[name].filter(pa.array(fresh)).to_pylist()
            text[fresh] = [_shown(value) for value in stood]
    columns[REASON] = pa.array(reason, pa.string())
    columns[TEXT] = pa.array(text, pa.string())
    return pa.table(columns)


def _cast(column: pa.Array, kind: ColumnType) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    """Cast a column of bytes; bool [rows] says where that failed."""
    text, wrong = _utf8(column)
    if kind == "string":
        return text, wrong
    text = pc.utf8_trim_whitespace(text)
    text = pc.if_else(pc.is_in(text, pa.array(NUMBER_NULLS)), pa.scalar(None, pa.string()), text)
    asked = np.asarray(pc.is_valid(text))
    for target in _targets(kind):
        try:
            return text.cast(target).cast(ARROW[kind]), wrong
        except pa.ArrowInvalid:
            continue  # some value is of another kind, or spelt in another way: look at each
    nothing = pa.scalar(None, pa.string())
    if kind == "time":
        numeric = pc.match_substring_regex(text, SECONDS)
        since = pc.if_else(numeric, text, nothing).cast(pa.float64())
        found = pc.coalesce(as_time(since), as_time(pc.if_else(numeric, nothing, text)))
    else:
        fits = pc.match_substring_regex(text, PATTERN[kind])
        if kind == "int":
            long = pc.match_substring_regex(text, LONG_INTEGER)
            small = pc.less_equal(pc.utf8_ltrim(text, "-"), LARGEST)
            fits = pc.or_(fits, pc.and_(long, small))
        found = pc.if_else(fits, text, nothing).cast(ARROW[kind])
    return found, wrong | (asked & np.asarray(pc.is_null(found)))


def _targets(kind: ColumnType) -> tuple[pa.DataType, ...]:
    # Arrow reads times with a zone into one type and times without into another.
    return (MICROSECOND, pa.timestamp("us")) if kind == "time" else (ARROW[kind],)


def _utf8(column: pa.Array) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    try:
        return column.cast(pa.string()), np.zeros(len(column), bool)
    except pa.ArrowInvalid:
        # Rare: only a block with broken bytes is looked at value by value.
        values = [_decoded(value) for value in column.to_pylist()]
        text = pa.array(values, pa.string())
        return text, np.asarray(pc.is_valid(column)) & np.asarray(pc.is_null(text))


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _shown(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")[:LONGEST_TEXT]


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


def _opened(part: Part) -> pa.NativeFile:
    try:
        if part.stop is not None:
            return pa.PythonFile(_Range(open(part.path, "rb"), part.start, part.stop), mode="r")
        return pa.input_stream(str(part.path), compression="detect")
    except FileNotFoundError as error:
        raise MissingDataError(
            "the file is gone", where=str(part.path), hint="load the day again"
        ) from error


def _reader(
    stream: pa.NativeFile,
    part: Part,
    names: Sequence[str],
    delimiter: str,
    convert: pcsv.ConvertOptions,
    lines: list[pcsv.InvalidRow],
) -> pcsv.CSVStreamingReader:
    def keep(line: pcsv.InvalidRow) -> str:
        lines.append(line)
        return "skip"

    try:
        return pcsv.open_csv(
            stream,
            # Threads would lose the numbers of the lines.
            read_options=pcsv.ReadOptions(
                column_names=list(names) or None, block_size=BLOCK_BYTES, use_threads=False
            ),
            parse_options=pcsv.ParseOptions(delimiter=delimiter, invalid_row_handler=keep),
            convert_options=convert,
        )
    except (pa.ArrowInvalid, OSError) as error:
        raise _corrupt(part, error) from error


def _batches(reader: pcsv.CSVStreamingReader, part: Part) -> Iterator[pa.RecordBatch]:
    try:
        yield from reader
    except (pa.ArrowInvalid, OSError) as error:
        raise _corrupt(part, error) from error


def _corrupt(part: Part, error: Exception) -> CorruptDataError:
    reason = str(error).splitlines()[0]
    return CorruptDataError(
        f"cannot be read as CSV: {reason}",
        where=str(part.path),
        hint="copy the file again; it may be cut off, empty or of another format",
    )
