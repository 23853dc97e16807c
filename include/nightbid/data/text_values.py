"""Parses fields of text files: detects the type of a column and casts its values.

A type is chosen only if casting loses nothing. Ids with leading zeros or with 20 digits, and
numbers among words, remain text. The type of a column is the narrowest that fits all blocks of all
files of a window (`merge`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.column_parsing import encode
from nightbid.config.folder_source import ColumnType
from nightbid.schema import REASON, TEXT
from nightbid.time_parsing import MICROSECOND, as_time, time_of_zone

LONGEST_TEXT = 500
NULLS = ("", "\\N")
NUMBER_NULLS = (*NULLS, "null", "NULL", "None", "NaN", "nan", "NA", "N/A", "-")
"""Texts of missing numbers, times and flags; in a string column NA may be Namibia."""
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
"""Texts that Arrow can cast, so that a value means the same next to an invalid one."""
LONG_INTEGER, LARGEST = r"^-?[0-9]{19}$", "9223372036854775807"
SECONDS = r"^[0-9]{9,16}(\.[0-9]+)?$"
"""Times in seconds, milliseconds or microseconds since 1970."""
LOSSY = r"^-?(0[0-9]|[0-9]{16,}(\.|$))"
"""Numbers that a float would not preserve: codes with leading zeros, long ids."""
WITH_COMMA = r"^-?([0-9]+|[0-9]{1,3}(\.[0-9]{3})+)(,[0-9]*)?$"
"""Numbers with a decimal comma; dots are thousands separators."""
ISO_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ]|$)"
_EXACT = 2**53

TextKind = Literal["null", "bit", "int", "long", "float", "bool", "time", "string"]
"""`ColumnType` with finer kinds: null (no value), bit (only 0 and 1), long (beyond 2^53)."""


@dataclass(frozen=True)
class TextFormat:
    """How values are written in a text file."""

    decimal: str = "."
    nulls: tuple[str, ...] = ()
    """Texts that mean a missing value, in addition to the empty text and \\N."""
    time_zone: str = "UTC"
    """Time zone of times that state none."""
    time_format: str = ""
    """strptime format of times that are not ISO 8601; empty: ISO 8601."""


def kind_of(column: pa.Array, style: TextFormat) -> TextKind:
    """Find the narrowest kind that preserves every text of a column of bytes.

    Rows with invalid UTF-8 are set aside, so their values do not count.
    """
    text = pc.utf8_trim_whitespace(_utf8(column)[0])
    text = text.filter(pc.invert(pc.is_in(text, pa.array((*NUMBER_NULLS, *style.nulls)))))
    text = text.drop_null()
    if not len(text):
        return "null"
    for sample in (text.slice(0, 16), text):  # a few values identify most text columns
        kind = _kind_of(sample, style)
        if kind == "string":
            return kind
    return kind


def _kind_of(text: pa.Array, style: TextFormat) -> TextKind:
    try:
        numbers = text.cast(pa.int64())
    except pa.ArrowInvalid:
        pass
    else:
        if not numbers.cast(pa.string()).equals(text):
            return "string"
        span = pc.min_max(numbers)
        low, high = span["min"].as_py(), span["max"].as_py()
        if low >= 0 and high <= 1:
            return "bit"
        return "int" if max(-low, high) <= _EXACT else "long"
    if _all(pc.match_substring_regex(text, r"(?i)^([01]|true|false)$")):
        return "bool"
    if _all(pc.match_substring_regex(text, ISO_DATE)):
        return "time" if not _times(text).null_count else "string"
    if style.time_format and not _formatted(text, style).null_count:
        return "time"
    lossy = pc.any(pc.match_substring_regex(text, LOSSY)).as_py()
    if not lossy and _all(pc.match_substring_regex(_points(text, style), PATTERN["float"])):
        return "float"
    return "string"


def merge(one: TextKind, other: TextKind) -> TextKind:
    """Find the kind that holds the values of both without loss; `string` if there is none."""
    if one == other or other == "null":
        return one
    if one == "null":
        return other
    both = {one, other}
    if both <= {"bit", "int", "long"}:
        return "long" if "long" in both else "int"
    if both <= {"bit", "int", "float"}:
        return "float"
    return "bool" if both == {"bit", "bool"} else "string"


def column_type(kind: TextKind) -> ColumnType:
    """Name the type of a column of a kind; a column without values is a string."""
    if kind in ("bit", "int", "long"):
        return "int"
    return "string" if kind == "null" else kind  # type: ignore[return-value]


def _all(matches: pa.Array) -> bool:
    return bool(pc.all(matches).as_py())


def _points(text: pa.Array, style: TextFormat) -> pa.Array:
    """Rewrite numbers with a decimal point; anything else becomes `?`, which does not cast."""
    if style.decimal == ".":
        return text
    fits = pc.match_substring_regex(text, WITH_COMMA)
    plain = pc.replace_substring(pc.replace_substring(text, ".", ""), ",", ".")
    return pc.if_else(fits, plain, pa.scalar("?"))


def typed(
    table: pa.Table, types: Mapping[str, ColumnType], style: TextFormat | None = None
) -> pa.Table:
    """Cast columns of bytes; a value that does not cast becomes null and its row is set aside.

    Args:
        table: Binary columns.
        types: Types of the columns; a column without an entry is a string.
        style: How numbers and missing values are written; None: the defaults.

    Returns:
        The columns, plus `nb_reason` and `nb_text`, which are null for readable rows.
    """
    style = style or TextFormat()
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    reason = np.full(len(table), None, object)
    text = np.full(len(table), None, object)
    for name in table.column_names:
        kind = types.get(name, "string")
        column, wrong = cast(table[name].combine_chunks(), kind, style)
        columns[name] = column
        if wrong.any():
            fault = "not UTF-8" if kind == "string" else f"not {CALLED[kind]}"
            fresh = wrong & (reason == None)  # noqa: E711 - element by element
            reason[fresh] = f"{name} is {fault}"
            stood = table[name].filter(pa.array(fresh)).to_pylist()
            text[fresh] = [_shown(value) for value in stood]
    columns[REASON] = pa.array(reason, pa.string())
    columns[TEXT] = pa.array(text, pa.string())
    return pa.table(columns)


def cast(
    column: pa.Array, kind: ColumnType, style: TextFormat
) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    """Cast a column of bytes; also return bool [rows], true where the cast failed."""
    text, wrong = _utf8(column)
    nothing = pa.scalar(None, pa.string())
    if kind == "string":
        if style.nulls:
            text = pc.if_else(pc.is_in(text, pa.array(style.nulls)), nothing, text)
        return text, wrong
    text = pc.utf8_trim_whitespace(text)
    missing = pa.array((*NUMBER_NULLS, *style.nulls))
    text = pc.if_else(pc.is_in(text, missing), nothing, text)
    is_given = np.asarray(pc.is_valid(text))
    if kind == "float":
        text = _points(text, style)
    if kind == "time":
        values = _times(text, style.time_zone)
        if style.time_format:
            values = pc.coalesce(_formatted(text, style), values)
        return values, wrong | (is_given & np.asarray(pc.is_null(values)))
    try:
        return text.cast(ARROW[kind]), wrong
    except pa.ArrowInvalid:
        pass  # a value is of another kind or written differently: check each
    if kind == "int":  # pandas writes integers as 1.0 in columns with missing values
        text = pc.replace_substring_regex(text, r"^(-?[0-9]+)\.0+$", r"\1")
    fits = pc.match_substring_regex(text, PATTERN[kind])
    if kind == "int":
        long = pc.match_substring_regex(text, LONG_INTEGER)
        small = pc.less_equal(pc.utf8_ltrim(text, "-"), LARGEST)
        fits = pc.or_(fits, pc.and_(long, small))
    values = pc.if_else(fits, text, nothing).cast(ARROW[kind])
    return values, wrong | (is_given & np.asarray(pc.is_null(values)))


def _times(text: pa.Array, zone: str = "UTC") -> pa.Array:
    # Arrow reads times with and without a zone into different types.
    for target in (MICROSECOND, pa.timestamp("us")):
        try:
            return as_time(text.cast(target), zone)
        except pa.ArrowInvalid:
            continue
    nothing = pa.scalar(None, pa.string())
    numeric = pc.match_substring_regex(text, SECONDS)
    since = pc.if_else(numeric, text, nothing).cast(pa.float64())
    return pc.coalesce(as_time(since), as_time(pc.if_else(numeric, nothing, text), zone))


def _formatted(text: pa.Array, style: TextFormat) -> pa.Array:
    """Parse times by the format, once per distinct text; null for texts that do not match."""
    import pandas as pd

    codes, tokens = encode(text)
    has_zone = "%z" in style.time_format or "%Z" in style.time_format
    read = pd.to_datetime(
        pd.Series(tokens.to_pylist(), dtype=object),
        format=style.time_format,
        errors="coerce",
        utc=has_zone,
    )
    naive = read.dt.tz_localize(None) if has_zone else read
    times = pa.Array.from_pandas(naive.astype("datetime64[us]")).cast(MICROSECOND)
    if not has_zone:
        times = time_of_zone(times, style.time_zone)
    return times.take(pa.array(codes, mask=codes < 0))


def _utf8(column: pa.Array) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    try:
        return column.cast(pa.string()), np.zeros(len(column), bool)
    except pa.ArrowInvalid:
        # Rare: only blocks with invalid bytes are decoded value by value.
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
