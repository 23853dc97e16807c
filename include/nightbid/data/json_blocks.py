"""Reads JSON lines as tables, block by block."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pjson

from nightbid.data.delimited import FilePart
from nightbid.data.json_bounds import LONGEST_LINE, check_depth, check_fields
from nightbid.data.json_times import PLAIN, JsonTimes, innermost
from nightbid.data.object_fields import flat
from nightbid.data.text_files import open_text
from nightbid.data.text_values import LONGEST_TEXT
from nightbid.errors import CorruptDataError

BLOCK_BYTES = 16 << 20
_EXACT = 2.0**53


NO_OBJECT = "line is not a JSON object"
NO_TEXT = "line is not UTF-8"
HALF = "line has half a surrogate pair"
BrokenLine = tuple[str, str]
"""Why a line cannot be read, and the line."""


def json_blocks(
    part: FilePart, times: JsonTimes = PLAIN
) -> Iterator[tuple[pa.Table, list[BrokenLine]]]:
    """Read JSON lines.

    Args:
        part: The file, or a range of its lines.
        times: How texts that are times are read.

    Yields:
        The table of a block, and its lines that are no JSON object or no UTF-8.

    Raises:
        CorruptDataError: The file is one array, or a line is too long.
        ValueError: The last line is truncated.
    """
    rest, left, is_first = b"", part.size, not part.start
    with open_text(part.path) as stream:
        if part.start:
            stream.seek(part.start)
        while chunk := stream.read(BLOCK_BYTES if left is None else min(left, BLOCK_BYTES)):
            left = None if left is None else left - len(chunk)
            if is_first and chunk.lstrip()[:1] == b"[":
                raise CorruptDataError(
                    "is one JSON array, not one object per line",
                    where=str(part.path),
                    hint="write lines, for example with jq -c '.[]'",
                )
            is_first = False
            block, _, rest = (rest + chunk).rpartition(b"\n")
            if len(rest) > LONGEST_LINE:
                raise CorruptDataError(
                    f"a line is longer than {LONGEST_LINE >> 20} MiB",
                    where=str(part.path),
                    hint="write one object per line; the file may be of another format",
                )
            if block.strip():
                yield _json_block(block, times)
    if rest.strip():
        check_depth([rest])
        _read_object(rest.decode("utf-8", "replace").encode())  # an error if it is truncated
        yield _json_block(rest, times)


def _is_text(data: bytes) -> bool:
    try:
        return data.isascii() or bool(data.decode())
    except UnicodeDecodeError:
        return False


def _json_block(block: bytes, times: JsonTimes) -> tuple[pa.Table, list[BrokenLine]]:
    """Read whole lines; return those that cannot be read separately."""
    lines = block.splitlines()
    check_fields(block, lines)
    try:
        check_depth(lines)
        if _is_text(block):  # Arrow does not check it
            return _json_table(block, times), []
        lines = [line for line in lines if line.strip()]
    except ValueError:  # from Arrow or from Python
        lines = [line for line in lines if line.strip()]
    rows, broken = [], []
    for line in lines:
        try:
            rows.append(json.dumps(_read_object(line), ensure_ascii=False).encode())
        except (ValueError, RecursionError) as error:
            reason = NO_OBJECT
            if isinstance(error, UnicodeError):
                reason = HALF if isinstance(error, UnicodeEncodeError) else NO_TEXT
            broken.append((reason, line[:LONGEST_TEXT].decode("utf-8", "backslashreplace")))
    return _json_table(b"\n".join(rows), times) if rows else pa.table({}), broken


def _read_object(line: bytes) -> dict[str, Any]:
    check_depth([line])
    # NaN and Infinity, which Python writes but JSON does not allow, become null.
    record = json.loads(line, parse_constant=lambda _: None, object_pairs_hook=_object)
    if not isinstance(record, dict):
        raise ValueError("no object")
    return record


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a field occurs twice")
    return fields


def _json_table(block: bytes, times: JsonTimes) -> pa.Table:
    options = pjson.ReadOptions(use_threads=False, block_size=max(len(block), 1))
    try:
        nested = pjson.read_json(io.BytesIO(block), read_options=options)
    except pa.ArrowInvalid as error:
        if " changed from " not in str(error):
            raise
        return _mixed_table(block, times)
    table = flat(nested)
    if fields := times.to_read_again(block, nested.schema):
        parse = pjson.ParseOptions(
            explicit_schema=pa.schema(fields), unexpected_field_behavior="ignore"
        )
        written = flat(pjson.read_json(io.BytesIO(block), options, parse))
        for name in written.column_names:
            column = times.column(name, written[name])
            if column is not None:
                table = table.set_column(table.column_names.index(name), name, column)
    long = [name for name in table.column_names if _is_rounded(table[name])]
    # Integers that a float would round, such as ids of 20 digits, are read as text, digit by digit.
    rows = _flat_rows(block) if long else []
    for name in long:
        values = [_digits(row.get(name)) for row in rows]
        with suppress(pa.ArrowInvalid, pa.ArrowTypeError):  # some are fractions
            column = pa.array(values)
            if pa.types.is_string(innermost(column.type)):
                table = table.set_column(table.column_names.index(name), name, column)
    return table


def _digits(value: Any) -> Any:
    """Convert an integer to text, and the integers of a list."""
    if isinstance(value, list):
        return [_digits(item) for item in value]
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _flat_rows(block: bytes) -> list[dict[str, Any]]:
    """Read lines with Python and flatten their objects with the column names of `flat`."""
    rows = [json.loads(line) for line in block.splitlines() if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line is not an object")
    flat_rows = [_flat_row(row) for row in rows]
    names = {name for row in flat_rows for name in row}
    objects = {name[:at] for name in names for at, character in enumerate(name) if character == "."}
    # An object that is null in one row has null fields there.
    return [
        {name: value for name, value in row.items() if value is not None or name not in objects}
        for row in flat_rows
    ]


def _flat_row(row: dict[str, Any], before: str = "") -> dict[str, Any]:
    flat_row: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat_row.update(_flat_row(value, f"{before}{name}."))
        else:
            flat_row[f"{before}{name}"] = value
    return flat_row


def _mixed_table(block: bytes, times: JsonTimes) -> pa.Table:
    """Read lines in which a field is sometimes a number, sometimes text, as a text column."""
    rows = _flat_rows(block)
    mixed: dict[str, pa.Array] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        kinds = {type(value) for value in values if value is not None}
        if len(kinds) < 2 or kinds == {int, float}:
            try:
                pa.array(values)
                continue
            except (pa.ArrowInvalid, pa.ArrowTypeError):
                pass  # the items of a list have different types
        texts = [v if v is None or isinstance(v, str) else json.dumps(v) for v in values]
        mixed[name] = pa.array(texts, pa.string())
    rest = [{name: value for name, value in row.items() if name not in mixed} for row in rows]
    text = "\n".join(map(json.dumps, rest)).encode()
    if not mixed and text == block:
        raise CorruptDataError("a field of an object or a list changes its type")
    table = _json_table(text, times) if any(rest) else None
    if table is None:
        return pa.table(mixed)
    for name, column in mixed.items():
        table = table.append_column(name, column)
    return table


def _is_rounded(column: pa.ChunkedArray) -> bool:
    if not pa.types.is_floating(innermost(column.type)):
        return False
    values = column.combine_chunks()
    while pa.types.is_list(values.type):
        values = values.flatten()
    largest = pc.max(pc.abs(values)).as_py()
    return largest is not None and bool(np.abs(largest) >= _EXACT)
