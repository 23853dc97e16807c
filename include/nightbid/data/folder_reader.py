"""Reads files of a folder after their columns and types have been determined.

A reader holds only these settings, so it can be sent to another process and reads the same rows.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nightbid.config.folder_source import ColumnType, FileKind, FolderSource
from nightbid.data import delimited, record_files, window_types
from nightbid.data.day_names import partitions_of
from nightbid.data.delimited import FilePart
from nightbid.data.json_blocks import BrokenLine
from nightbid.data.json_times import JsonTimes
from nightbid.data.layouts import LAYOUTS, row_keys
from nightbid.data.text_values import CALLED, TextFormat, cast
from nightbid.data.window_columns import declared_types, dialect_of
from nightbid.errors import CorruptDataError, DataError, MissingDataError
from nightbid.schema import REASON, TEXT


@dataclass(frozen=True)
class FolderReader:
    """Reads files with the columns and types of their window."""

    block: FolderSource
    kind: FileKind
    root: Path
    address: str
    """Address of the bucket or table that the root is a copy of; empty: it is no copy."""
    types: Mapping[str, Any]
    """Column name in the files → its type: the pipeline's name for text files, else Arrow's."""
    chosen: frozenset[str] | None
    """Columns to read from text files; None: all."""
    named: frozenset[str] | None
    """Columns that the pipeline uses; None: all."""

    @cached_property
    def _declared(self) -> dict[str, ColumnType]:
        return declared_types(self.block)

    def is_optional(self, name: str) -> bool:
        """Return whether the pipeline does not use a column of the files."""
        return self.named is not None and self.block.renamed(name) not in self.named

    def raw(self, part: FilePart) -> Iterator[pa.Table]:
        """Read a file, or a range of one, and add the columns that its folders state."""
        for table in self._read(part):
            for name, value in self.partitions(part).items():
                if name not in table.column_names:
                    table = table.append_column(name, self._repeated(name, value, len(table)))
            yield table

    def partitions(self, part: FilePart) -> dict[str, str | None]:
        """Columns whose value is stated by a file's folders."""
        return partitions_of(part.path, self.root) if self.block.layout == "plain" else {}

    def _repeated(self, name: str, value: str | None, rows: int) -> pa.Array:
        texts = pa.array([value], pa.string())
        kind = self._declared.get(name, "string")
        column, wrong = cast(texts.cast(pa.binary()), kind, TextFormat())
        if wrong.any():
            raise CorruptDataError(
                f"the folder {name}={value} is not {CALLED[kind]}",
                where=str(self.root),
                hint=f"change source.types.{name}",
            )
        return pa.repeat(column[0], rows)

    def _read(self, part: FilePart) -> Iterator[pa.Table]:
        if self.kind != "csv":
            return self._records(part)
        return delimited.read(part, dialect_of(self.block, part), self.types, self.chosen)

    def _records(self, part: FilePart) -> Iterator[pa.Table]:
        types, declared = self.types, self._declared
        columns = {*types, *declared}
        is_json = self.kind == "jsonl"
        texts = [name for name in types if window_types.holds_text(types[name])]
        texts += [name for name in declared if declared[name] in ("string", "time")]
        read = (
            record_files.json_tables(
                part, columns.__contains__, JsonTimes(frozenset(texts), self.block.time_zone)
            )
            if is_json
            else zip(record_files.tables(part, self.kind, columns.__contains__), repeat([]))
        )
        for table, broken in read:
            if is_json:
                table = self._filled(table, self.partitions(part))
            table = window_types.fit(
                table,
                types,
                declared,
                part.path,
                self.is_optional,
                style=TextFormat(
                    time_zone=self.block.time_zone, time_format=self.block.time_format
                ),
            )
            if is_json:
                names = dict.fromkeys([*types, *declared, *table.column_names])
                names = {name: None for name in names if name in table.column_names}
                table = with_broken(table.select(list(names)), broken)
            yield table

    def _filled(self, table: pa.Table, stated: Container[str]) -> pa.Table:
        """Add columns of the window as nulls: JSON omits fields without a value.

        Args:
            table: Rows of a file.
            stated: Columns that the file's folders state.
        """
        renamed = self.block.renamed
        have = {renamed(name) for name in table.column_names}
        for name in (*self.types, *self._declared):
            if renamed(name) in have or (name not in self.types and name in stated):
                continue
            kind = pa.null() if name in self._declared else self.types[name]
            table = table.append_column(name, pa.nulls(len(table), kind))
            have.add(renamed(name))
        return table

    def finished(self, table: pa.Table, day: date, first: int) -> pa.Table:
        """Add the columns that the layout makes and rename columns as the pipeline does.

        Args:
            table: Rows as they are in a file.
            day: Day of the rows.
            first: Number of the first row within the day, from 0.
        """
        block, layout = self.block, LAYOUTS[self.block.layout]
        where = f"{self.root}, {day}"
        if layout.make:
            need(table, layout.types, f"layout {block.layout}", where)
            table = layout.make(table, day, first)
        table = self._merged(table)
        have = {block.renamed(name) for name in table.column_names}
        missing = [old for old, new in block.rename.items() if new not in have]
        need(table, missing, "source.rename", where)
        names = [block.renamed(name) for name in table.column_names]
        if block.make_key:
            table = table.append_column(block.make_key, row_keys(day, first, len(table)))
            names.append(block.make_key)
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise CorruptDataError(
                f"two columns are called {sorted(twice)[0]!r}",
                where=where,
                hint="fix source.rename, or source.make_key",
            )
        return table.rename_columns(names)

    def _merged(self, table: pa.Table) -> pa.Table:
        """Merge the old and new names of a column that rows of one file have under either."""
        for new in dict.fromkeys(self.block.rename.values()):
            names = [name for name in table.column_names if self.block.renamed(name) == new]
            if len(names) < 2 or not _agree([table[name] for name in names]):
                continue
            column = pc.coalesce(*(table[name] for name in names))
            table = table.set_column(table.column_names.index(names[0]), names[0], column)
            table = table.drop_columns(names[1:])
        return table

    def tables(
        self,
        day: date,
        parts: Sequence[FilePart],
        first: int = 0,
        columns: tuple[FilePart, pa.Schema] | None = None,
    ) -> Iterator[pa.Table]:
        """Read files of one day.

        Args:
            day: Day of the files.
            parts: Files or ranges, in order.
            first: Number of the day's rows that precede them.
            columns: The day's first file and the schema of its rows; None: the first of `parts`
                sets it.
        """
        for part in parts:
            for table in self.raw(part):
                table = self.finished(table, day, first)
                if columns is None:
                    columns = part, table.schema
                else:
                    table = self.aligned(table, part, *columns)
                first += len(table)
                yield table

    def aligned(
        self, table: pa.Table, part: FilePart, first: FilePart, schema: pa.Schema
    ) -> pa.Table:
        """Reorder the columns of a day's later file to match its first file.

        For columns that the pipeline does not use, extra ones are dropped and missing ones become
        null.
        """
        named = self.named
        for name in table.column_names:
            if name not in schema.names and (named is None or name in named):
                raise CorruptDataError(
                    f"has the column {name!r}, which {first.path.name} of the same day lacks",
                    where=str(part.path),
                    hint="load the day again: its files must have the same columns; if the logs"
                    " have renamed one, set `source.rename`",
                )
        missing = [name for name in schema.names if name not in table.column_names]
        needed = [name for name in missing if named is None or name in named]
        need(table, needed, f"{first.path.name} of the same day", str(part.path))
        for name in missing:
            table = table.append_column(name, pa.nulls(len(table), schema.field(name).type))
        return table.select(schema.names)

    def renamed_error(self, error: DataError) -> DataError:
        """Replace the path of a local copy in an error with the address of the original."""
        if not self.address or str(self.root) not in error.where:
            return error
        where = error.where.replace(str(self.root), self.address)
        return type(error)(error.what, where=where, hint=error.hint)


def _agree(columns: Sequence[pa.ChunkedArray]) -> bool:
    """Return whether columns have one type and no row has two different values in them."""
    first, *others = columns
    for other in others:
        if other.type != first.type:
            return False
        both = pc.and_(pc.is_valid(first), pc.is_valid(other))
        if not pc.any(both).as_py():
            continue
        if pa.types.is_nested(first.type) or not pc.all(pc.equal(first, other)).as_py():
            return False
    return True


def with_broken(table: pa.Table, lines: Sequence[BrokenLine]) -> pa.Table:
    """Append a row of nulls with a reason for each line that could not be read."""
    for name in (REASON, TEXT):
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), pa.string()))
    if not lines:
        return table
    nothing = pa.table([pa.nulls(len(lines), field.type) for field in table.schema], table.schema)
    for name, values in zip((REASON, TEXT), zip(*lines, strict=True), strict=True):
        place = nothing.column_names.index(name)
        nothing = nothing.set_column(place, name, pa.array(values, pa.string()))
    return pa.concat_tables([table, nothing])


def need(table: pa.Table, names: Iterable[str], by: str, where: str) -> None:
    """Check that a table has some columns.

    Raises:
        MissingDataError: One is missing; the message names the first.
    """
    for name in names:
        if name not in table.column_names:
            have = [column for column in table.column_names if column not in (REASON, TEXT)]
            raise MissingDataError(
                f"column {name!r} of {by} is missing",
                where=where,
                hint=f"the file has {', '.join(have[:12])}{'…' if len(have) > 12 else ''}",
            )
