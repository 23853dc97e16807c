"""Reads files with typed columns: Parquet, ORC, Avro, and JSON lines.

Each file is read as a few tables of bounded size. Fields of objects (structs) become columns, such
as `user.id`. The type of a column over all files of a window is determined in `window_types`.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, cast

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pjson
import pyarrow.orc as orc
import pyarrow.parquet as pq

from nightbid.config.folder_source import FileKind
from nightbid.data.avro_schema import check_avro
from nightbid.data.delimited import FilePart
from nightbid.data.json_bounds import LONGEST_LINE, check_depth, check_fields
from nightbid.data.json_times import PLAIN, JsonTimes, innermost
from nightbid.data.text_files import open_text
from nightbid.data.text_values import LONGEST_TEXT
from nightbid.errors import CorruptDataError, MissingDataError, NightbidError
from nightbid.night.source import code_of
from nightbid.storage.files import write_atomically
from nightbid.time_parsing import as_time

ROWS = 131_072
BLOCK_BYTES = 16 << 20
TITLES = {"parquet": "Parquet", "orc": "ORC", "avro": "Avro", "jsonl": "JSON lines"}
READ_BYTES = 256 << 20
"""Maximum size of a table in bytes; larger rows are read fewer at a time."""
UNREADABLE = (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, ValueError, TypeError,
              EOFError, IndexError, KeyError, MemoryError, RecursionError)  # fmt: skip
"""Exceptions that readers raise for a file that is truncated or of another format."""
_EXACT = 2.0**53


def schemas_of(path: Path, kind: FileKind, cache: Path | None = None) -> list[pa.Schema]:
    """Read the columns of a file and their types: one schema, or for Avro and JSON one per block.

    Args:
        path: The file.
        kind: Format of the file.
        cache: Folder for the schemas of Avro and JSON files, which require reading the whole file.

    Raises:
        MissingDataError: The file is gone.
        CorruptDataError: The file is of another format, or truncated.
    """
    with _Named(path, kind):
        if kind == "parquet":
            with pq.ParquetFile(path) as file:
                empty = _flat_schema(file.schema_arrow).empty_table()
                return [int96_in_utc(empty, file.schema).schema]
        if kind == "orc":
            return [_flat_schema(orc.ORCFile(path).schema)]
        if cache is None:
            return [table.schema for table in _OPEN[kind](FilePart(path))]
        stat = path.stat()
        key = repr((str(path.resolve()), stat.st_size, stat.st_mtime_ns, code_of((__name__,))))
        cached = cache / "schemas" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
        with suppress(OSError, ValueError, pa.ArrowInvalid):
            texts = json.loads(cached.read_text())
            return [pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text))) for text in texts]
        schemas = [table.schema for table in _OPEN[kind](FilePart(path))]
        texts = [base64.b64encode(schema.serialize()).decode() for schema in schemas]
        write_atomically(cached, json.dumps(texts))
        return schemas


def _flat_schema(schema: pa.Schema) -> pa.Schema:
    """Name the fields of objects; reading the names checks that Arrow can decode them."""
    _ = schema.names
    return flat(schema.empty_table()).schema if _has_objects(schema) else schema


def _has_objects(schema: pa.Schema) -> bool:
    return any(pa.types.is_struct(field.type) for field in schema)


def flat(table: pa.Table) -> pa.Table:
    """Flatten the fields of objects to columns at any depth: `{"user": {"id": 7}}` is `user.id`."""
    while _has_objects(table.schema):
        table = table.flatten()
        names = table.column_names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise CorruptDataError(
                f"a field of an object and another column are both called {twice[0]!r}",
                hint="rename one of them in the logs",
            )
    return table


def int96_in_utc(table: pa.Table, schema: pq.ParquetSchema) -> pa.Table:
    """State the zone of times of Parquet's type INT96, which Spark and Hive write in UTC."""
    columns = (schema.column(at) for at in range(len(schema)))
    for name in [column.path for column in columns if column.physical_type == "INT96"]:
        if name in table.column_names:
            place = table.column_names.index(name)
            table = table.set_column(place, name, as_time(table[name]))
    return table


def tables(part: FilePart, kind: FileKind, is_read: Callable[[str], bool]) -> Iterator[pa.Table]:
    """Read a file.

    Args:
        part: The file, or a range of its row groups (Parquet), stripes (ORC) or lines (JSON).
        kind: Format of the file.
        is_read: Returns whether a column is read.

    Yields:
        Tables of about `ROWS` rows; tables from JSON may lack columns.

    Raises:
        MissingDataError: The file is gone.
        CorruptDataError: The file is of another format, or truncated.
    """
    with _Named(part.path, kind):
        if kind == "parquet":
            with pq.ParquetFile(part.path) as file:
                columns = [name for name in _flat_schema(file.schema_arrow).names if is_read(name)]
                groups = list(range(part.start, file.num_row_groups)[: part.size])
                rows = _rows_at_once(file, groups, columns)
                for batch in file.iter_batches(rows, groups, columns):
                    yield int96_in_utc(flat(pa.Table.from_batches([batch])), file.schema)
            return
        for table in _OPEN[kind](part):
            yield table.select([name for name in table.column_names if is_read(name)])


def _rows_at_once(file: pq.ParquetFile, groups: list[int], columns: list[str]) -> int:
    """Rows per table that keep its size bounded: dictionary-encoded values may expand a lot."""
    if not groups or not columns:
        return ROWS
    few = next(file.iter_batches(64, groups[:1], columns, use_threads=False), None)
    if few is None or not few.num_rows:
        return ROWS
    return int(min(ROWS, max(1, READ_BYTES * few.num_rows // max(few.nbytes, 1))))


def json_tables(
    part: FilePart, is_read: Callable[[str], bool], times: JsonTimes = PLAIN
) -> Iterator[tuple[pa.Table, list[str]]]:
    """Read JSON lines.

    Args:
        part: The file, or a range of its lines.
        is_read: Returns whether a column is read.
        times: How texts that are times are read.

    Yields:
        Tables as `tables` yields them, each with the lines of its block that are no JSON object.

    Raises:
        MissingDataError: The file is gone.
        CorruptDataError: The file is not JSON lines, or is truncated in the middle of its last
            line.
    """
    with _Named(part.path, "jsonl"):
        for table, broken in _json_blocks(part, times):
            yield table.select([name for name in table.column_names if is_read(name)]), broken


class _Named:
    """Context manager that turns a reader's exception into a one-line error about the file."""

    def __init__(self, path: Path, kind: FileKind) -> None:
        self._path, self._kind = path, kind

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, FileNotFoundError):
            raise MissingDataError(
                "the file is gone", where=str(self._path), hint="load the day again"
            ) from error
        # Errors of fastavro and its compression libraries have no common base class.
        is_any = self._kind == "avro" and isinstance(error, Exception)
        if isinstance(error, NightbidError):
            if isinstance(error, CorruptDataError) and not error.where:
                raise CorruptDataError(
                    error.what, where=str(self._path), hint=error.hint
                ) from error
            return
        if is_any or isinstance(error, UNREADABLE):
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            if isinstance(error, MemoryError):
                raise CorruptDataError(
                    "a chunk of it does not fit in memory",
                    where=str(self._path),
                    hint="write smaller row groups, stripes or blocks; compressed data may "
                    "expand to far more",
                ) from error
            if "lists to be of size" in reason:
                lists = [
                    repr(field.name)
                    for field in pq.read_schema(self._path)
                    if pa.types.is_fixed_size_list(field.type)
                ]
                raise CorruptDataError(
                    f"column {', '.join(lists)}: Arrow cannot read fixed-size lists if some are "
                    "null",
                    where=str(self._path),
                    hint="write variable-length lists",
                ) from error
            raise CorruptDataError(
                f"cannot be read as {TITLES[self._kind]}: {reason}",
                where=str(self._path),
                hint="load the day again; the file may be cut off",
            ) from error


def _orc(part: FilePart) -> Iterator[pa.Table]:
    file = orc.ORCFile(part.path)
    for stripe in range(part.start, file.nstripes)[: part.size]:
        yield flat(pa.Table.from_batches([file.read_stripe(stripe)]))


def _avro(part: FilePart) -> Iterator[pa.Table]:
    with open(part.path, "rb") as stream:
        reader = fastavro.reader(stream)
        schema: Any = reader.writer_schema
        names = [field["name"] for field in schema["fields"]]
        check_avro(schema)
        while records := cast(list[dict[str, Any]], list(islice(reader, ROWS))):
            # Arrow infers the types: texts, numbers, times, decimals and lists of these.
            columns = {name: pa.array([record[name] for record in records]) for name in names}
            yield flat(pa.table(columns))


def _json_lines(part: FilePart) -> Iterator[pa.Table]:
    return (table for table, _ in _json_blocks(part))


def _json_blocks(part: FilePart, times: JsonTimes = PLAIN) -> Iterator[tuple[pa.Table, list[str]]]:
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
        yield _json_table(rest, times), []


def _json_block(block: bytes, times: JsonTimes) -> tuple[pa.Table, list[str]]:
    """Read whole lines; return those that are no JSON object separately."""
    lines = block.splitlines()
    check_fields(block, lines)
    try:
        check_depth(lines)
        return _json_table(block, times), []
    except ValueError:  # from Arrow or from Python
        lines = [line for line in lines if line.strip()]
    rows, broken = [], []
    for line in lines:
        try:
            rows.append(json.dumps(_read_object(line)).encode())
        except (ValueError, RecursionError):
            broken.append(line[:LONGEST_TEXT].decode("utf-8", "backslashreplace"))
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


_OPEN: dict[str, Callable[[FilePart], Iterator[pa.Table]]] = {
    "orc": _orc,
    "avro": _avro,
    "jsonl": _json_lines,
}
