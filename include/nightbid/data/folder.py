"""A user's own folder of daily files, in bounded memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.config.sources import ColumnType, FileKind, FolderSource
from nightbid.data import delimited, ipinyou, record_files, window_types
from nightbid.data.day_names import SPELLED, SUFFIXES, DayFiles, scan
from nightbid.data.delimited import Dialect, Part
from nightbid.data.layouts import (
    LAYOUTS,
    avazu_time,
    criteo_days,
    row_keys,
    single_file,
)
from nightbid.data.places import Place, named_place, open_place
from nightbid.data.source_schema import SourceSchema
from nightbid.data.text_values import Kind, TextFormat, column_type, merge
from nightbid.errors import CorruptDataError, DataError, MissingDataError
from nightbid.night.source import code_of
from nightbid.schema import REASON, TEXT
from nightbid.storage.digests import kept_digest
from nightbid.storage.workspace import write_atomically

OTHER_COLUMNS = 64
"""Columns that a pipeline does not name and that are read all the same: profiles show them, and
features can be tried on rows that are sampled already."""
Days = npt.NDArray[np.datetime64]


@dataclass(frozen=True)
class _Span:
    """Rows of a file among which those of one day lie."""

    first: int
    last: int


class FolderLogs:
    """Daily partitions (`dt=YYYY-MM-DD/`) or daily files (`2026-01-01.csv.gz`).

    Args:
        block: the typed block.
        days: the window: the type of a column holds in all files of these days. Default: all.
        cache: folder for what was found in text files, so that each is looked through once.
        named: columns that the pipeline names; of the others at most `OTHER_COLUMNS` are read, and
            one whose files disagree is left out. Default: every column is named.
    """

    def __init__(
        self,
        block: FolderSource,
        days: Collection[date] = (),
        cache: Path | None = None,
        named: Collection[str] | None = None,
    ) -> None:
        # A table is a list of Parquet files.
        kind = block.kind
        self._kind: FileKind = "parquet" if kind == "delta" or kind == "iceberg" else kind
        self._block, self._days, self._cache = block, days, cache
        self._named = None if named is None else {*named, *block.types, *block.outcomes}
        self._layout = LAYOUTS[block.layout]
        self._place = open_place(block.folder, cache, block.kind)
        self._root = self._place.root
        self._known_schemas: dict[Path, list[pa.Schema]] = {}
        outcomes = (*block.outcomes, *(self._renamed(name) for name in self._layout.outcomes))
        self.meaning = SourceSchema(outcomes=frozenset(outcomes))

    def days(self) -> tuple[date, ...] | None:
        """Every day that has a file, or at least a partition."""
        return tuple(sorted({*self._files, *self._spans, *self._empty}))

    def files(self, day: date) -> list[Path]:
        """Files of one day, in their order; empty where the day has none."""
        parts = [*self._files.get(day, []), *self._clicks(day)]
        return [part.path for part in parts]

    @property
    def place(self) -> Place:
        """Where the files lie."""
        return self._place

    def fingerprint(self, days: tuple[date, ...]) -> str:
        """Names, sizes and times of change of the days' files."""
        parts = [part for day in days for part in self._files.get(day, [])]
        parts += [self._whole] if self._whole else []
        parts += [part for day in days for part in self._clicks(day)]
        stats: list[object] = []
        for part in parts:
            name = part.path.relative_to(self._root).as_posix()
            stats.append((name, part.start, part.stop, *self._place.version(part.path)))
        with suppress(DataError):  # the stage that reads the rows says what is wrong
            # Rows are read again when a column is named that was left out, or of which values were.
            stats += sorted(self._chosen or ())
            named = {name for name in self._mixed() if not self._is_optional(name)}
            stats += [("mixed", name) for name in sorted(named)]
        return hashlib.sha256(repr(stats).encode()).hexdigest()

    def identity(self, day: date, digest: Callable[[Path], str]) -> dict[str, str]:
        """Bytes of the day's files in their order, and the settled types of their columns."""
        with named_place(self._place):
            return self._identity(day, digest)

    def _identity(self, day: date, digest: Callable[[Path], str]) -> dict[str, str]:
        parts = self._parts(day) + ([self._whole] if self._whole else [])
        parts = [*parts, *self._clicks(day)]
        parts = [part for part in parts if part.path.stat().st_size]
        bytes_ = [(digest(part.path), part.start, part.stop) for part in parts]
        found = {"logs": hashlib.sha256(repr(bytes_).encode()).hexdigest()[:32]}
        types: Mapping[str, object] = (
            self._text_types if self._kind == "csv" else self._column_types
        )
        mine = {name for part in parts for name in self._names_in(part)}
        if self._kind == "jsonl":  # a day has every column of the window
            mine |= set(types)
        said = {name: str(kind) for name, kind in types.items() if name in mine}
        for name in self._may_be_lost(parts) & said.keys():
            said[name] += " or null"
        return {**found, "types": json.dumps(said, sort_keys=True)}

    def _may_be_lost(self, parts: Collection[Part]) -> set[str]:
        """Columns of which values become null, or are left out, where the files of a day differ.

        A pipeline that names them stops instead: the rows are not the same.
        """
        lost = self._not_in_all(parts)
        if self._kind != "csv":
            types = self._column_types
            lost |= {
                field.name
                for part in parts
                for schema in self._schemas(part)
                for field in schema
                if field.name in types and field.type != types[field.name]
            }
        return {name for name in lost if self._is_optional(name)}

    def _mixed(self) -> set[str]:
        """Columns that may be left out where nothing names them: files differ, or fixed lists."""
        days = [self._parts(day) for day in self._days or self._files]
        mixed = set().union(*(self._not_in_all(parts) for parts in days))
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

    def _not_in_all(self, parts: Collection[Part]) -> set[str]:
        """Columns that some of a day's files have and others have not; JSON may leave them out."""
        if len(parts) < 2 or self._kind == "jsonl":
            return set()
        names = [set(self._names_in(part)) for part in parts if part.path.stat().st_size]
        every: set[str] = set().union(*names)
        return {name for name in every if not all(name in each for each in names)}

    def _schemas(self, part: Part) -> list[pa.Schema]:
        """Schemas of a file, each looked up once."""
        if part.path not in self._known_schemas:
            found = record_files.schemas_of(part.path, self._kind, self._cache)
            self._known_schemas[part.path] = found
        return self._known_schemas[part.path]

    def batches(self, day: date) -> Iterator[pa.RecordBatch]:
        """Rows of one day, in the order of its files."""
        with named_place(self._place):
            for table in self._tables(day):
                yield from table.combine_chunks().to_batches()

    def _parts(self, day: date) -> list[Part]:
        """Files of a day, on this machine."""
        parts = self._files.get(day, [])
        self._place.fetch(part.path for part in parts)
        return parts

    def _tables(self, day: date) -> Iterator[pa.Table]:
        if day in self._spans:
            yield from self._from_whole(day)
            return
        if day not in self._files:
            if day in self._empty:
                self._refuse_others(day)
                return
            known = self.days() or ()
            raise MissingDataError(
                f"there is no day {day}",
                where=str(self._root),
                hint=f"the days go from {known[0]} to {known[-1]}"
                if known
                else f"name days {SPELLED}",
            )
        if self._block.layout == "ipinyou":
            yield from self._with_clicks(day)
            return
        read, schema, before = 0, None, None
        for part in self._parts(day):
            for table in self._raw(part):
                table = self._finished(table, day, read)
                if schema is None:
                    schema, before = table.schema, part
                else:
                    assert before is not None
                    table = _aligned(table, schema, part, before, self._named)
                read += len(table)
                yield table

    def _clicks(self, day: date) -> list[Part]:
        """Click logs beside the impressions of a day, where the layout has them."""
        if self._block.layout != "ipinyou" or day not in self._files:
            return []
        parts = ipinyou.click_files(self._scanned.files, day)
        self._place.fetch(part.path for part in parts)
        return parts

    def _with_clicks(self, day: date) -> Iterator[pa.Table]:
        """Impressions of a day with what its click logs say of them; then clicks without any."""
        clicks = pa.concat_tables(
            [table for part in self._clicks(day) for table in self._raw(part)]
        )
        clicked = pc.unique(clicks["bid_id"].combine_chunks().drop_null())
        read, seen = 0, []
        for part in self._parts(day):
            for table in self._raw(part):
                found = ipinyou.with_clicks(table, clicked)
                seen.append(found["bid_id"].filter(pc.equal(found["click"], 1)))
                yield self._finished(found, day, read)
                read += len(table)
        won = pa.chunked_array([each for one in seen for each in one.chunks], pa.string())
        lost = ipinyou.orphans(ipinyou.with_clicks(clicks, clicked), won.combine_chunks())
        if len(lost):
            yield self._finished(lost, day, read)

    def _refuse_others(self, day: date) -> None:
        """An empty folder is an empty day; one with files of another format is a mistake."""
        if names := self._empty[day]:
            kind = self._kind
            raise MissingDataError(
                f"the folder of {day} has no {kind} file; it has {', '.join(names[:5])}",
                where=str(self._root),
                hint=f"name the files *{SUFFIXES[kind][0]}, or set source.kind to what they are",
            )

    def _raw(self, part: Part) -> Iterator[pa.Table]:
        if self._kind != "csv":
            return self._records(part.path)
        return delimited.read(part, self._dialect(part), self._text_types, self._chosen)

    def _records(self, path: Path) -> Iterator[pa.Table]:
        types, declared, kind = self._column_types, self._declared, self._kind
        wanted = {*types, *declared}
        is_json = kind == "jsonl"
        for table in record_files.tables(path, kind, wanted.__contains__):
            if is_json:
                for name in declared:
                    if name not in table.column_names:
                        table = table.append_column(name, pa.nulls(len(table)))
            table = window_types.fit(table, types, declared, path, self._is_optional, fill=is_json)
            yield (
                table.select(list(dict.fromkeys([*types, *declared, *table.column_names])))
                if (is_json)
                else table
            )

    def _finished(self, table: pa.Table, day: date, first: int) -> pa.Table:
        """Add what the layout makes, and give the columns the pipeline's names."""
        where = f"{self._root}, {day}"
        if self._layout.make:
            _need(table, self._layout.types, f"layout {self._block.layout}", where)
            table = self._layout.make(table, day, first)
        _need(table, self._block.rename, "source.rename", where)
        names = [self._renamed(name) for name in table.column_names]
        if self._block.make_key:
            table = table.append_column(self._block.make_key, row_keys(day, first, len(table)))
            names.append(self._block.make_key)
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise CorruptDataError(
                f"two columns are called {sorted(twice)[0]!r}",
                where=where,
                hint="fix source.rename, or source.make_key",
            )
        return table.rename_columns(names)

    def _renamed(self, name: str) -> str:
        return self._block.rename.get(name, name)

    def _dialect(self, part: Part) -> Dialect:
        block = self._block
        is_tab = block.layout in ("criteo", "ipinyou") or ".tsv" in part.path.suffixes
        delimiter = block.delimiter or ("\t" if is_tab else ",")
        return Dialect(
            delimiter=delimiter,
            quoting=delimiter != "\t" if block.quoting is None else block.quoting,
            names=self._layout.names or block.names,
            encoding=block.encoding,
            style=TextFormat(block.decimal, block.nulls, block.time_zone),
        )

    @cached_property
    def _window(self) -> list[Part]:
        """Files of the days whose types are settled together, oldest first."""
        days = self._days or self._files
        parts = [part for day in sorted(days) for part in self._files.get(day, [])]
        self._place.fetch(part.path for part in parts)
        return [*parts, *([self._whole] if self._whole else [])]

    @cached_property
    def _declared(self) -> dict[str, ColumnType]:
        """Types that the pipeline asks for, by the files' names."""
        back = {new: old for old, new in self._block.rename.items()}
        return {back.get(name, name): kind for name, kind in self._block.types.items()}

    @cached_property
    def _text_types(self) -> dict[str, ColumnType]:
        """Types of the columns of text files, which hold in every file of the window."""
        parts = [part for part in self._window if part.path.stat().st_size]
        columns = [delimited.columns_of(part, self._dialect(part)) for part in parts]
        self._check_names({name for each in columns for name in each})
        fixed = {**self._layout.types, **self._declared}
        kinds: dict[str, Kind] = {
            name: "null"
            for each in columns
            for name in each
            if name and name not in fixed and self._is_open(name)
        }
        for part in parts:
            found = self._kinds(part, tuple(kinds))
            kinds = {name: merge(kind, found[name]) for name, kind in kinds.items()}
        return {**{name: column_type(kind) for name, kind in kinds.items()}, **fixed}

    def _kinds(self, part: Part, names: tuple[str, ...]) -> dict[str, Kind]:
        """Kinds of the columns of one text file, looked up where its bytes are known."""
        dialect = self._dialect(part)
        if self._cache is None:
            return delimited.kinds(part, dialect, dict.fromkeys(names, "null"))
        content = kept_digest(part.path, self._cache)
        code = code_of((delimited.__name__,))
        key = repr((content, part.start, part.stop, dialect, sorted(names), code))
        path = self._cache / "kinds" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
        with suppress(OSError, ValueError):
            known: dict[str, Kind] = json.loads(path.read_text())
            if known.keys() == set(names):
                return known
        found = delimited.kinds(part, dialect, dict.fromkeys(names, "null"))
        write_atomically(path, json.dumps(found))
        return found

    @cached_property
    def _column_types(self) -> dict[str, pa.DataType]:
        """Types of the columns of files other than csv, which hold in every file of the window."""
        schemas = [(part.path, schema) for part in self._window for schema in self._schemas(part)]
        self._check_names({name for _, schema in schemas for name in schema.names})
        # Arrow cannot read a list of fixed size that is null in some row: not for a column that
        # nothing names.
        open_ = [
            (path, pa.schema([field for field in schema if self._is_open(field.name)
                              and not (_is_fixed_list(field) and self._is_optional(field.name))]))
            for path, schema in schemas
        ]  # fmt: skip
        return window_types.settle(open_, self._is_optional)

    def _is_open(self, name: str) -> bool:
        """Tell whether a column is read, and its type is to be found."""
        is_read = self._chosen is None or name in self._chosen
        return is_read and name not in self._declared

    def _is_optional(self, name: str) -> bool:
        """Tell whether the pipeline can do without a column of the files."""
        return self._named is not None and self._renamed(name) not in self._named

    @cached_property
    def _chosen(self) -> set[str] | None:
        """Columns of the files that are read; None: all of them."""
        if self._named is None or self._block.layout != "plain" or self._block.names:
            return None
        have: dict[str, None] = {}
        for day in sorted(self._days or self._files):
            for part in self._parts(day)[:1]:
                have.update(dict.fromkeys(self._names_in(part)))
        others = [name for name in have if name and self._is_optional(name)]
        if len(others) <= OTHER_COLUMNS:
            return None
        wanted = {name for name in have if not self._is_optional(name)}
        return {*wanted, *self._block.rename, *self._named, *others[:OTHER_COLUMNS]}

    def _names_in(self, part: Part) -> list[str]:
        if not part.path.stat().st_size:
            return []
        if self._kind != "csv":
            return [name for schema in self._schemas(part) for name in schema.names]
        return delimited.columns_of(part, self._dialect(part))

    def _check_names(self, have: set[str]) -> None:
        """Refuse names of `types` and `outcomes` that no file has: a misspelling does nothing."""
        if taken := {REASON, TEXT}.intersection(self._renamed(name) for name in have):
            name = sorted(taken)[0]
            raise CorruptDataError(
                f"the logs have a column {name!r}, a name that Nightbid reserves for its own",
                where=str(self._root),
                hint=f"rename it: `rename: {{{name}: logged_{name}}}` in `source`",
            )
        if not have:
            return
        known = {self._renamed(name) for name in have if name} | set(self._layout.made)
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

    @cached_property
    def _files(self) -> dict[date, list[Part]]:
        if self._block.layout == "criteo":
            self._place.fetch(path for path, _ in self._place.walk())
            return criteo_days(self._block, self._root)
        found = self._scanned.files
        if self._block.layout == "ipinyou":
            return ipinyou.impression_files(found)
        return {day: [Part(path) for path in paths] for day, paths in found.items()}

    @cached_property
    def _scanned(self) -> DayFiles:
        return scan(self._place.walk(), self._kind, self._place.head)

    @cached_property
    def _empty(self) -> dict[date, list[str]]:
        """Days whose folder has no file of the format, and the names of what it has."""
        return {} if self._block.layout == "criteo" else self._scanned.others

    @cached_property
    def _whole(self) -> Part | None:
        """The one file of all days, if that is how the layout is published."""
        if self._block.layout != "avazu" or self._files:
            return None
        self._place.fetch(path for path, _ in self._place.walk())
        return Part(single_file(self._block, self._root))

    @cached_property
    def _spans(self) -> dict[date, _Span]:
        """Where each day lies in the one file: read once, in bounded memory."""
        spans: dict[date, _Span] = {}
        if self._whole is None:
            return spans
        row = 0
        for table, days in self._dated(self._whole):
            for day in np.unique(days[~np.isnat(days)]):
                rows = np.flatnonzero(days == day) + row
                key = day.astype(date)
                first = spans[key].first if key in spans else int(rows[0])
                spans[key] = _Span(first, int(rows[-1]))
            row += len(table)
        return spans

    def _from_whole(self, day: date) -> Iterator[pa.Table]:
        assert self._whole is not None
        span, row, read = self._spans[day], 0, 0
        for table, days in self._dated(self._whole):
            if row > span.last:
                return
            mine = table.filter(pa.array(days == np.datetime64(day)))
            row += len(table)
            if len(mine):
                yield self._finished(mine, day, read)
                read += len(mine)

    def _dated(self, part: Part) -> Iterator[tuple[pa.Table, Days]]:
        """Tables with the day of each row; one without belongs to the day of the row before."""
        last = np.datetime64("NaT", "D")
        for table in self._raw(part):
            days = _days_of(table)
            known = np.flatnonzero(~np.isnat(days))
            if len(known):
                before = np.searchsorted(known, np.arange(len(days)), side="right") - 1
                opening = days[known[0]] if np.isnat(last) else last
                days = np.where(before < 0, opening, days[known[np.maximum(before, 0)]])
                last = days[-1]
            else:
                days = np.full(len(days), last)
            yield table, days


def _is_fixed_list(field: pa.Field) -> bool:
    return bool(pa.types.is_fixed_size_list(field.type))


def _days_of(table: pa.Table) -> Days:
    if "hour" not in table.column_names:
        raise MissingDataError(
            "column 'hour' is missing",
            where="layout avazu",
            hint=f"the file has {', '.join(table.column_names[:8])}…",
        )
    time = avazu_time(table["hour"]).cast(pa.timestamp("us"))
    return np.asarray(time).astype("datetime64[D]")


def _need(table: pa.Table, names: Iterable[str], by: str, where: str) -> None:
    for name in names:
        if name not in table.column_names:
            have = [each for each in table.column_names if each not in (REASON, TEXT)]
            raise MissingDataError(
                f"column {name!r} of {by} is missing",
                where=where,
                hint=f"the file has {', '.join(have[:12])}{'…' if len(have) > 12 else ''}",
            )


def _aligned(
    table: pa.Table,
    schema: pa.Schema,
    part: Part,
    first: Part,
    named: Collection[str] | None,
) -> pa.Table:
    """Give the columns of a day's later file the order of its first.

    Columns that the pipeline does not name are left out, or empty, where a file differs.
    """
    for name in table.column_names:
        if name not in schema.names and (named is None or name in named):
            raise CorruptDataError(
                f"has the column {name!r}, which {first.path.name} of the same day has not",
                where=str(part.path),
                hint="load the day again: its files must have the same columns",
            )
    missing = [name for name in schema.names if name not in table.column_names]
    needed = [name for name in missing if named is None or name in named]
    _need(table, needed, f"{first.path.name} of the same day", str(part.path))
    for name in missing:
        table = table.append_column(name, pa.nulls(len(table), schema.field(name).type))
    return table.select(schema.names)
