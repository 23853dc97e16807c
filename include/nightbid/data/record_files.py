"""Reads files with typed columns: Parquet, ORC, Avro, and JSON lines.

Each file is read as a few tables of bounded size. Fields of objects (structs) become columns, such
as `user.id`. The type of a column over all files of a window is determined in `window_types`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, cast

import fastavro
import pyarrow as pa
import pyarrow.orc as orc
import pyarrow.parquet as pq

from nightbid.column_parsing import readable_text
from nightbid.config.folder_source import FileKind
from nightbid.data.avro_schema import check_avro
from nightbid.data.delimited import FilePart
from nightbid.data.json_blocks import BrokenLine, json_blocks
from nightbid.data.json_times import PLAIN, JsonTimes
from nightbid.data.object_fields import flat, flat_schema
from nightbid.data.valid_text import with_valid_text
from nightbid.errors import CorruptDataError, MissingDataError, NightbidError
from nightbid.night.source import code_of
from nightbid.shortages import remedy
from nightbid.storage.files import write_atomically
from nightbid.time_parsing import as_time

ROWS = 131_072
TITLES = {"parquet": "Parquet", "orc": "ORC", "avro": "Avro", "jsonl": "JSON lines"}
READ_BYTES = 256 << 20
"""Maximum size of a table in bytes; larger rows are read fewer at a time."""
UNREADABLE = (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, ValueError, TypeError,
              EOFError, IndexError, KeyError, MemoryError, RecursionError)  # fmt: skip
"""Exceptions that readers raise for a file that is truncated or of another format."""


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
                empty = flat_schema(file.schema_arrow).empty_table()
                return [int96_in_utc(empty, file.schema).schema]
        if kind == "orc":
            return [flat_schema(orc.ORCFile(path).schema)]
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
                columns = [name for name in flat_schema(file.schema_arrow).names if is_read(name)]
                groups = list(range(part.start, file.num_row_groups)[: part.size])
                rows = _rows_at_once(file, groups, columns)
                for batch in file.iter_batches(rows, groups, columns):
                    table = int96_in_utc(flat(pa.Table.from_batches([batch])), file.schema)
                    yield _with_valid_text(table)
            return
        for table in _OPEN[kind](part):
            yield _with_valid_text(
                table.select([name for name in table.column_names if is_read(name)])
            )


def _with_valid_text(table: pa.Table) -> pa.Table:
    for place, column in enumerate(table.columns):
        if (valid := with_valid_text(column)) is not column:
            table = table.set_column(place, table.schema.names[place], valid)
    return table


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
) -> Iterator[tuple[pa.Table, list[BrokenLine]]]:
    """Read JSON lines.

    Args:
        part: The file, or a range of its lines.
        is_read: Returns whether a column is read.
        times: How texts that are times are read.

    Yields:
        Tables as `tables` yields them, each with the lines of its block that cannot be read.

    Raises:
        MissingDataError: The file is gone.
        CorruptDataError: The file is not JSON lines, or is truncated in the middle of its last
            line.
    """
    with _Named(part.path, "jsonl"):
        for table, broken in json_blocks(part, times):
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
                hint=remedy(error) or "load the day again; the file may be cut off",
            ) from error


def _orc(part: FilePart) -> Iterator[pa.Table]:
    file = orc.ORCFile(part.path)
    for stripe in range(part.start, file.nstripes)[: part.size]:
        yield flat(pa.Table.from_batches([file.read_stripe(stripe)]))


def _avro(part: FilePart) -> Iterator[pa.Table]:
    with open(part.path, "rb") as stream:
        reader = fastavro.reader(stream, handle_unicode_errors="surrogateescape")
        schema: Any = reader.writer_schema
        names = [field["name"] for field in schema["fields"]]
        check_avro(schema)
        while records := cast(list[dict[str, Any]], list(islice(reader, ROWS))):
            # Arrow infers the types: texts, numbers, times, decimals and lists of these.
            columns = {name: _avro_column([record[name] for record in records]) for name in names}
            yield flat(pa.table(columns))


def _avro_column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except UnicodeEncodeError:  # a text is not UTF-8
        if not all(value is None or isinstance(value, str) for value in values):
            raise
    stored = [
        value if value is None else value.encode(errors="surrogateescape") for value in values
    ]
    return readable_text(pa.array(stored, pa.binary()))


def _json_lines(part: FilePart) -> Iterator[pa.Table]:
    return (table for table, _ in json_blocks(part))


_OPEN: dict[str, Callable[[FilePart], Iterator[pa.Table]]] = {
    "orc": _orc,
    "avro": _avro,
    "jsonl": _json_lines,
}
