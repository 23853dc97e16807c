"""Determines the columns to read from a window's files, and one type for each over all files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection
from contextlib import suppress
from difflib import get_close_matches
from functools import cached_property, reduce
from pathlib import Path

import pyarrow as pa

from nightbid.config.folder_source import ColumnType, FileKind, FolderSource
from nightbid.data import delimited, record_files, window_types
from nightbid.data.day_names import is_tsv, partitions_of
from nightbid.data.delimited import Dialect, FilePart
from nightbid.data.layouts import LAYOUTS
from nightbid.data.text_values import TextFormat, TextKind, column_type, merge
from nightbid.errors import CorruptDataError, MissingDataError
from nightbid.night.source import code_of
from nightbid.schema import REASON, TEXT
from nightbid.storage.digests import kept_digest
from nightbid.storage.files import write_atomically

OTHER_COLUMNS = 64
"""Maximum number of columns to read that the pipeline does not use.

Profiles show them, and new features can use them on rows that are already sampled."""


class WindowColumns:
    """Columns of the files of a window.

    Args:
        block: The `source` block of the pipeline.
        kind: Format of the files.
        root: Folder of the files.
        days: Returns the local files of each day of the window, oldest day first.
        whole: Returns the local files that hold many days.
        cache: Folder for the column types detected in text files, so that each file is scanned
            once.
        named: Columns that the pipeline uses. At most `others` further columns are read, and one
            whose files disagree on its type is left out. None: every column is used.
        others: Maximum number of columns to read that the pipeline does not use.
    """

    def __init__(
        self,
        block: FolderSource,
        kind: FileKind,
        root: Path,
        *,
        days: Callable[[], list[list[FilePart]]],
        whole: Callable[[], list[FilePart]],
        cache: Path | None,
        named: Collection[str] | None,
        others: int = OTHER_COLUMNS,
    ) -> None:
        self._block, self._kind, self._root, self._cache = block, kind, root, cache
        self._layout = LAYOUTS[block.layout]
        self._find_days, self._find_whole = days, whole
        self._named = None if named is None else {*named, *block.types, *block.outcomes}
        if self._named is not None and block.day_column:
            self._named.add(self._block.renamed(block.day_column))
        self._others = others
        self._known_names: dict[FilePart, list[str]] = {}
        self._known_schemas: dict[Path, list[pa.Schema]] = {}

    @property
    def named(self) -> set[str] | None:
        """Columns that the pipeline uses; None: all."""
        return self._named

    @cached_property
    def _days(self) -> list[list[FilePart]]:
        return self._find_days()

    @cached_property
    def _window(self) -> list[FilePart]:
        """Files whose column types are determined together, oldest first."""
        return [*(part for day in self._days for part in day), *self._find_whole()]

    def may_be_lost(self, parts: Collection[FilePart]) -> set[str]:
        """Optional columns that lose values or are dropped because the files of a day differ.

        Reading stops with an error instead if the pipeline uses the column.
        """
        lost = self._not_in_all(parts)
        if self._kind != "csv":
            types = self.column_types
            lost |= {
                field.name
                for part in parts
                for schema in self._schemas(part)
                for field in schema
                if field.name in types and field.type != types[field.name]
            }
        return {name for name in lost if self.is_optional(name)}

    def mixed(self) -> set[str]:
        """Columns to drop if unused: files disagree on them, or they are fixed-size lists."""
        mixed = set().union(*(self._not_in_all(parts) for parts in self._days))
        types: dict[str, pa.DataType] = {}
        for part in self._window if self._kind != "csv" else []:
            for schema in self._schemas(part):
                mixed |= {
                    field.name
                    for field in schema
                    if types.setdefault(field.name, field.type) != field.type
                    or _is_fixed_list(field)
                }
        return mixed

    def _not_in_all(self, parts: Collection[FilePart]) -> set[str]:
        """Columns that only some of a day's files have; JSON may omit columns without values."""
        if len(parts) < 2 or self._kind == "jsonl":
            return set()
        names = [set(self.names_in(part)) for part in parts if part.path.stat().st_size]
        every: set[str] = set().union(*names)
        return {name for name in every if not all(name in part_names for part_names in names)}

    def _schemas(self, part: FilePart) -> list[pa.Schema]:
        """Schemas of a file, read once."""
        if part.path not in self._known_schemas:
            schemas = record_files.schemas_of(part.path, self._kind, self._cache)
            self._known_schemas[part.path] = schemas
        return self._known_schemas[part.path]

    def dialect(self, part: FilePart) -> Dialect:
        """Return how a text file is read."""
        return dialect_of(self._block, part)

    @cached_property
    def declared(self) -> dict[str, ColumnType]:
        """Types declared in the pipeline, by column name in the files."""
        return declared_types(self._block)

    @cached_property
    def text_types(self) -> dict[str, ColumnType]:
        """Types of the columns of text files, valid for every file of the window."""
        parts = [part for part in self._window if part.path.stat().st_size]
        columns = [self.names_in(part) for part in parts]
        self._check_names({name for part_names in columns for name in part_names})
        fixed = {**self._layout.types, **self.declared}
        kinds: dict[str, TextKind] = {
            name: "null"
            for part_names in columns
            for name in part_names
            if name and name not in fixed and self._is_open(name)
        }
        for part in parts:
            part_kinds = self._kinds(part, tuple(kinds))
            kinds = {name: merge(kind, part_kinds[name]) for name, kind in kinds.items()}
        # A column has one type before and after it was renamed.
        for new in self._block.rename.values():
            names = [name for name in kinds if self._block.renamed(name) == new]
            if names:
                kinds |= dict.fromkeys(names, reduce(merge, [kinds[name] for name in names]))
        return {**{name: column_type(kind) for name, kind in kinds.items()}, **fixed}

    def _kinds(self, part: FilePart, names: tuple[str, ...]) -> dict[str, TextKind]:
        """Kinds of the columns of one text file, cached by the file's content."""
        dialect = self.dialect(part)
        if self._cache is None:
            return delimited.kinds(part, dialect, dict.fromkeys(names, "null"))
        content = kept_digest(part.path, self._cache)
        code = code_of((delimited.__name__,))
        key = repr((content, part.start, part.stop, dialect, sorted(names), code))
        path = self._cache / "kinds" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
        with suppress(OSError, ValueError):
            known: dict[str, TextKind] = json.loads(path.read_text())
            if known.keys() == set(names):
                return known
        kinds = delimited.kinds(part, dialect, dict.fromkeys(names, "null"))
        write_atomically(path, json.dumps(kinds))
        return kinds

    @cached_property
    def column_types(self) -> dict[str, pa.DataType]:
        """Types of the columns of files other than CSV, valid for every file of the window."""
        schemas = [(part.path, schema) for part in self._window for schema in self._schemas(part)]
        self._check_names({name for part in self._window for name in self.names_in(part)})
        # Arrow cannot read fixed-size lists with null rows, so optional columns of them are
        # skipped.
        open_ = [
            (path, [field for field in schema if self._is_open(field.name)
                    and not (_is_fixed_list(field) and self.is_optional(field.name))])
            for path, schema in schemas
        ]  # fmt: skip
        # A column has one type before and after it was renamed.
        renamed = self._block.renamed
        types = window_types.settle(
            [
                (path, pa.schema([field.with_name(renamed(field.name)) for field in fields]))
                for path, fields in open_
            ],
            lambda name: self._named is not None and name not in self._named,
            is_json=self._kind == "jsonl",
        )
        names = dict.fromkeys(field.name for _, fields in open_ for field in fields)
        return {name: types[renamed(name)] for name in names if renamed(name) in types}

    def _is_open(self, name: str) -> bool:
        """Return whether a column is read and its type has to be determined."""
        is_read = self.chosen is None or name in self.chosen
        return is_read and name not in self.declared

    def is_optional(self, name: str) -> bool:
        """Return whether the pipeline does not use a column of the files."""
        return self._named is not None and self._block.renamed(name) not in self._named

    @cached_property
    def chosen(self) -> set[str] | None:
        """Columns to read from the files; None: all."""
        if self._named is None or self._block.layout != "plain" or self._block.names:
            return None
        have: dict[str, None] = {}
        # A day's first file represents it; files of many days may each have different columns.
        firsts = [next(filter(self.names_in, parts), None) for parts in self._days]
        for part in (*filter(None, firsts), *self._find_whole()):
            have.update(dict.fromkeys(self.names_in(part)))
        others = [name for name in have if name and self.is_optional(name)]
        if len(others) <= self._others:
            return None
        required = {name for name in have if not self.is_optional(name)}
        return {*required, *self._block.rename, *self._named, *others[: self._others]}

    def names_in(self, part: FilePart) -> list[str]:
        """List the columns of a file; an empty file has none."""
        if not part.path.stat().st_size:
            return []
        if self._kind == "csv":
            names = self._names_of(part)
        else:
            names = [name for schema in self._schemas(part) for name in schema.names]
        folders = self.partitions(part) if names else {}
        return [*names, *(name for name in folders if name not in names)]

    def partitions(self, part: FilePart) -> dict[str, str | None]:
        """Columns whose value is stated by a file's folders."""
        return partitions_of(part.path, self._root) if self._block.layout == "plain" else {}

    def _names_of(self, part: FilePart) -> list[str]:
        if part not in self._known_names:
            self._known_names[part] = delimited.columns_of(part, self.dialect(part))
        return self._known_names[part]

    def _check_names(self, have: set[str]) -> None:
        """Reject reserved column names, and names in `types` and `outcomes` that no file has."""
        if reserved := {REASON, TEXT}.intersection(self._block.renamed(name) for name in have):
            name = sorted(reserved)[0]
            raise CorruptDataError(
                f"the logs have a column {name!r}, a name that Nightbid reserves",
                where=str(self._root),
                hint=f"rename it: `rename: {{{name}: logged_{name}}}` in `source`",
            )
        if not have:
            return
        known = {self._block.renamed(name) for name in have if name} | set(self._layout.made)
        for key, names in (("types", self._block.types), ("outcomes", self._block.outcomes)):
            for name in names:
                if name not in known:
                    close = get_close_matches(name, sorted(known), 1)
                    raise MissingDataError(
                        f"source.{key} names the column {name!r}, which no file has",
                        where=str(self._root),
                        hint=f"did you mean {close[0]!r}?"
                        if close
                        else f"the files have {', '.join(sorted(known)[:12])}",
                    )


def dialect_of(block: FolderSource, part: FilePart) -> Dialect:
    """Return how a text file of a folder is read."""
    is_tab = block.layout in ("criteo", "ipinyou") or is_tsv(part.path)
    delimiter = block.delimiter or ("\t" if is_tab else ",")
    return Dialect(
        delimiter=delimiter,
        quoting=delimiter != "\t" if block.quoting is None else block.quoting,
        names=part.names or LAYOUTS[block.layout].names or block.names,
        encoding=block.encoding,
        backslash=block.quote_escape == "backslash",
        style=TextFormat(block.decimal, block.nulls, block.time_zone, block.time_format),
    )


def declared_types(block: FolderSource) -> dict[str, ColumnType]:
    """Types declared in the pipeline, by column name in the files, before and after a rename."""
    names = [*block.rename, *(name for name in block.types if name not in block.rename)]
    called = {name: block.renamed(name) for name in names}
    return {name: block.types[new] for name, new in called.items() if new in block.types}


def _is_fixed_list(field: pa.Field) -> bool:
    return bool(pa.types.is_fixed_size_list(field.type))
