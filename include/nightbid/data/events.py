"""Reads impressions, clicks and conversions from three folders and joins them by impression id.

A row is an impression; its day is the day of its partition. Clicks and conversions are read from
that day through `attribution_days` later. Added columns: ``clicked`` int8, ``click_time``
timestamp, ``clicks`` int32 and, where there are conversions, ``converted`` int8,
``conversion_time`` timestamp, ``conversions`` int32 and ``conversion_value`` float64.

Events that cannot be read or joined become rows that are set aside, each on one day. Unreadable
events and those without an impression belong to the day on which they were logged; an event earlier
than its impression belongs to the impression's day. Duplicate events are dropped and counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.column_parsing import whole
from nightbid.config.event_source import JOINED, EventsSource, EventStream
from nightbid.counts import counted
from nightbid.data.event_join import CLICK, CONVERSION, NO_NUMBER, EventBatch, Join, OutcomeEvents
from nightbid.data.event_kinds import EventKinds
from nightbid.data.folder import FolderLogs
from nightbid.data.folder_reader import with_broken
from nightbid.data.source_schema import SourceSchema
from nightbid.errors import CorruptDataError, MissingDataError
from nightbid.number_parsing import numbers
from nightbid.schema import REASON, TEXT
from nightbid.time_parsing import as_time, is_local_time
from nightbid.unreadable_values import unreadable_rows

MADE = (*JOINED, "click_time", "conversion_time")
DAY_MICROSECONDS = 86_400_000_000


class EventLogs:
    """Days of impressions joined with their clicks and conversions.

    Args:
        block: The `source` block of the pipeline.
        days: Days of the window, over all of which a column has one type; empty: all days.
        cache: Cache folder, see `FolderLogs`.
        named: Columns that the pipeline uses, including those that the join adds; None: all.
    """

    def __init__(
        self,
        block: EventsSource,
        days: Collection[date] = (),
        cache: Path | None = None,
        named: Collection[str] | None = None,
    ) -> None:
        self._block = block
        reach = range(block.attribution_days + 1)
        later = {day + timedelta(days=n) for day in days for n in reach}
        earlier = {day - timedelta(days=n) for day in days for n in reach}
        roles = {block.key, block.time}
        only = block.impressions.only.keys()
        columns = None if named is None else {*named, *roles, *only} - set(MADE)
        self._impressions = FolderLogs(block.impressions, days, cache, columns)
        self._ids = FolderLogs(block.impressions, earlier, cache, {block.key, *only}, others=0)
        events = {*roles, *filter(None, (block.event_key,))}
        streams: dict[str, tuple[EventStream | None, set[str]]] = {
            CLICK: (block.clicks, events),
            CONVERSION: (block.conversions, {*events, *filter(None, (block.value,))}),
        }
        self._columns = {
            kind: sorted(names - {block.event_key}) for kind, (_, names) in streams.items()
        }
        self._logs = {
            kind: FolderLogs(stream, later, cache, {*names, *stream.only}, others=0)
            for kind, (stream, names) in streams.items()
            if stream is not None
        }
        self._may_lack_key = False
        """Whether the clicks read last lack the events' own key, so that conversions need it."""
        self._keys: dict[str, str] = {}
        """Stream → the key's column, if it is the first to read its folder; see `EventKinds`."""
        folders: set[str] = set()
        every = {
            "impression": block.impressions,
            CLICK: block.clicks,
            CONVERSION: block.conversions,
        }
        for kind, stream in every.items():
            if stream is not None:
                self._keys[kind] = "" if stream.folder in folders else block.key
                folders.add(stream.folder)
        known = (*self._impressions.meaning.outcomes, *MADE)
        self.meaning = SourceSchema(outcomes=frozenset(known))
        self._figures: dict[date, dict[str, float]] = {}

    def days(self) -> tuple[date, ...] | None:
        """All days of impressions."""
        return self._impressions.days()

    def fingerprint(self, days: tuple[date, ...]) -> str:
        """Digest of the names, sizes and modification times of all files that the days need."""
        parts = [self._impressions.fingerprint(days)]
        parts.append(self._ids.fingerprint(tuple(sorted({d for day in days for d in
                                                         self._before(day)}))))  # fmt: skip
        later = tuple(sorted({event_day for day in days for event_day in self._from(day)}))
        parts += [logs.fingerprint(later) for logs in self._logs.values()]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def identity(self, day: date, digest: Callable[[Path], str]) -> dict[str, str]:
        """Content digests and types of the day's impressions, its events and earlier impressions.

        A late file of events changes the identity only of the impression days that its events may
        belong to.
        """
        digests = dict(self._impressions.identity(day, digest))
        before = [self._ids.identity(earlier_day, digest) for earlier_day in self._before(day)]
        digests["earlier impressions"] = _digest(before)
        for kind, logs in self._logs.items():
            digests[f"{kind}s"] = _digest(
                [logs.identity(event_day, digest) for event_day in self._from(day)]
            )
        return digests

    def figures(self, day: date) -> dict[str, float]:
        """Counts and delays of a day; available once its `batches` have been read to the end."""
        return self._figures.get(day, {})

    def not_there(self, day: date) -> list[str]:
        """Missing logs that the rows of a day need, such as `clicks of 2026-01-06`."""
        return [
            f"{kind}s of {event_day}"
            for kind in self._logs
            for event_day in self._missing(kind, day)
        ]

    def _missing(self, kind: str, day: date) -> list[date]:
        """Days of events that a day is joined with and that are missing."""
        known = set(self._logs[kind].days() or ())
        return [event_day for event_day in self._from(day) if event_day not in known]

    def batches(self, day: date) -> Iterator[pa.RecordBatch]:
        """Yield a day's impressions with their events, then the events that are set aside.

        Raises:
            MissingDataError: The day's impressions, or a day of events within its attribution
                window, are missing; or a stream lacks a column.
            CorruptDataError: A file cannot be read, or the impressions have a column that the join
                adds.
        """
        join = Join(
            {kind: self._events(kind, day) for kind in self._logs},
            touch=self._block.touch,
            window=self._microseconds(None),
            click_through=self._microseconds(self._block.click_through_days),
            view_through=self._microseconds(self._block.view_through_days),
            days=self._block.attribution_days,
            zone=self._block.time_zone,
        )
        key, time = self._block.key, self._block.time
        schema: pa.Schema | None = None
        where = f"{self._block.impressions.folder}, {day}"
        kinds = EventKinds(self._block.impressions, self._keys["impression"])
        for batch in self._impressions.batches(day):
            table = pa.Table.from_batches([batch])
            self._check(table, [key, time, *self._block.impressions.only], "impressions", where)
            table = kinds.select(with_broken(table, ()))
            columns = join.add(table[key], as_time(table[time], self._block.time_zone))
            for name, values in columns.items():
                if name in table.column_names:
                    raise CorruptDataError(
                        f"the impressions have a column {name!r}, which the join adds",
                        where=where,
                        hint=f"rename it: `impressions: {{rename: {{{name}: logged_{name}}}}}`",
                    )
                table = table.append_column(name, values)
            schema = schema or table.schema
            yield from table.combine_chunks().to_batches()
        kinds.check(where)
        aside = self._set_aside(join, day)
        if schema is not None and len(aside):
            yield from _rows_of(aside, schema, key, time).combine_chunks().to_batches()
        self._figures[day] = join.figures()

    def _set_aside(self, join: Join, day: date) -> pa.Table:
        """Search earlier days for the remaining events' impressions; return those set aside."""
        before = self._before(day)
        known = set(self._ids.days() or ())
        if all(earlier_day in known for earlier_day in before):
            for earlier_day in before:
                if join.is_done():
                    break
                kinds = EventKinds(self._block.impressions)
                for batch in self._ids.batches(earlier_day):
                    rows = kinds.select(pa.Table.from_batches([batch]))
                    join.known_elsewhere(whole(rows[self._block.key]))
        else:
            join.may_be_older()
        return join.aside()

    def _events(self, kind: str, day: date) -> OutcomeEvents:
        if missing := self._missing(kind, day):
            days = self._block.attribution_days
            raise MissingDataError(
                f"there are no {kind}s of {missing[0]}, and impressions of {day} are joined with"
                f" events until {counted(days, 'day')} later",
                where=str(self._stream(kind).folder),
                hint="load that day, as an empty partition if nothing happened; or use an "
                "earlier date",
            )
        names, event_key = self._columns[kind], self._block.event_key
        valued = kind == CONVERSION and bool(self._block.value)
        batches: list[EventBatch] = []
        keyed: set[bool] = set()
        stream = self._stream(kind)
        kinds = EventKinds(stream, self._keys[kind])
        for event_day in self._from(day):
            where = f"{stream.folder}, {event_day}"
            for batch in self._logs[kind].batches(event_day):
                if not batch.num_rows:
                    continue
                table = pa.Table.from_batches([batch])
                self._check(table, [*names, *stream.only], f"{kind}s", where)
                keyed.add(not event_key or event_key in table.column_names)
                table = kinds.select(with_broken(table, ()))
                reason, text = (whole(table[name]).cast(pa.string()) for name in (REASON, TEXT))
                value = None
                if valued:
                    value, reason, text = self._money(table[self._block.value], reason, text, where)
                time, zone = table[self._block.time], self._block.time_zone
                batches.append(
                    EventBatch(
                        whole(table[self._block.key]),
                        as_time(time, zone),
                        own=event_day == day,
                        is_local=None if zone == "UTC" else is_local_time(time),
                        event_key=_event_keys(table, event_key),
                        value=value,
                        reason=reason,
                        text=text,
                    )
                )
        if kind == CLICK and self._block.conversions:
            self._may_lack_key = True not in keyed
        elif event_key and keyed == {False} and (kind == CLICK or self._may_lack_key):
            self._check(table, [event_key], f"{kind}s", where)
        if kind == CLICK:  # a day without conversions is usual, one without clicks is not
            kinds.check(f"{stream.folder}, {day}")
        return OutcomeEvents.of(kind, batches, valued=valued)

    def _money(
        self, column: pa.ChunkedArray, reason: pa.Array, text: pa.Array, where: str
    ) -> tuple[npt.NDArray[np.float64], pa.Array, pa.Array]:
        """Read the amounts of conversions; a value that is not a number gets a reason.

        Args:
            column: Values of the column named by `source.value`.
            reason: Why a row cannot be read, as reported by the file reader; null if it can.
            text: The unreadable values; null: none.
            where: Folder and day, for error messages.
        """
        name = self._block.value
        if pa.types.is_temporal(column.type) or pa.types.is_nested(column.type):
            raise CorruptDataError(
                f"the conversions' column {name!r} does not contain numbers, but {column.type}",
                where=where,
                hint="name a column of amounts in source.value",
            )
        wrong = pa.array(unreadable_rows(column, "number"))
        nothing = pa.nulls(len(column), pa.string())
        why = pc.if_else(wrong, NO_NUMBER.format(CONVERSION, name), nothing)
        shown = pc.if_else(wrong, whole(column).cast(pa.string()), nothing)
        return numbers(column), pc.coalesce(reason, why), pc.coalesce(text, shown)

    def _stream(self, kind: str) -> EventStream:
        stream = self._block.clicks if kind == CLICK else self._block.conversions
        assert stream is not None
        return stream

    def _check(self, table: pa.Table, names: Collection[str], stream: str, where: str) -> None:
        for name in names:
            if name not in table.column_names:
                have = ", ".join(table.column_names[:12])
                raise MissingDataError(
                    f"the {stream} have no column {name!r}",
                    where=where,
                    hint=f"they have {have}; set source.key and source.time, or"
                    f" `{stream}: {{rename: …}}`",
                )

    def _from(self, day: date) -> list[date]:
        return [day + timedelta(days=n) for n in range(self._block.attribution_days + 1)]

    def _before(self, day: date) -> list[date]:
        return [day - timedelta(days=n) for n in range(1, self._block.attribution_days + 1)]

    def _microseconds(self, days: float | None) -> int:
        window_days = max(self._block.attribution_days, 1) if days is None else days
        return round(window_days * DAY_MICROSECONDS)


def _rows_of(aside: pa.Table, schema: pa.Schema, key: str, time: str) -> pa.Table:
    """Give events the impressions' columns, null except for what is known of the event."""
    is_click = pc.equal(aside["kind"], CLICK)
    known = {
        REASON: aside[REASON],
        TEXT: aside[TEXT],
        "clicked": pc.if_else(is_click, 1, None),
        "converted": pc.if_else(is_click, None, 1),
    }
    if pa.types.is_timestamp(schema.field(time).type):
        known[time] = aside["time"].cast(pa.timestamp("us")).cast(schema.field(time).type)
    if pa.types.is_string(schema.field(key).type):
        known[key] = aside["key"]
    columns = [
        whole(known[field.name]).cast(field.type, safe=False)
        if field.name in known
        else pa.nulls(len(aside), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _digest(parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _event_keys(table: pa.Table, name: str) -> pa.Array | None:
    """Ids of the events themselves, null if their stream has none; None if no stream has any."""
    if name in table.column_names:
        return whole(table[name])
    return pa.nulls(len(table), pa.string()) if name else None
