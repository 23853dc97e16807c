"""Joins a day's impressions with clicks and conversions; takes arrays and returns columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.column_parsing import encode, whole
from nightbid.sampling.plain import plain_array
from nightbid.schema import REASON, TEXT
from nightbid.time_parsing import MICROSECOND, second_occurrence

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
CLICK, CONVERSION = "click", "conversion"
HOUR = 3_600_000_000
NO_KEY, NO_TIME = "a {} without an id", "a {} whose time cannot be read"
ORPHAN, EARLY = "a {} without an impression of {}", "a {} earlier than its impression"
NO_NUMBER = "a {} whose {} is not a number"
"""Reasons for setting an event aside."""


@dataclass(frozen=True)
class EventBatch:
    """A batch of events as logged; every array is [rows]."""

    key: pa.Array
    """Id of the impression."""
    time: pa.Array
    """Time of the event, timestamp[us, UTC]; null if it cannot be read."""
    own: bool
    """Whether the events were logged on the day of the impressions."""
    is_local: Bools | None = None
    """Whether a time states no zone, so that it may be that of a clock which shows it twice; None:
    no time does."""
    event_key: pa.Array | None = None
    """Id of the event itself; None if events have no id."""
    value: Floats | None = None
    """Money; NaN where none is logged; None: the stream has no amounts."""
    reason: pa.Array | None = None
    """Why an event cannot be read, null if it can; None: all events are readable."""
    text: pa.Array | None = None
    """The unreadable value, to show to users."""


@dataclass
class OutcomeEvents:
    """Clicks or conversions around one day, without duplicates, sorted by key and time."""

    kind: str
    ids: pa.Array
    """Distinct ids of the impressions that the events refer to."""
    key: Ints
    """[events], index into `ids`."""
    time: Ints
    """[events], microseconds."""
    own: Bools
    """[events], whether the event was logged on the day of the impressions."""
    is_local: Bools
    """[events], whether the time states no zone."""
    value: Floats | None
    """[events], money; 0 where none is logged; None: events have no amounts."""
    duplicates: int = 0
    """Number of duplicates among the events logged on the day itself."""
    without_value: int = 0
    """Number of events logged on the day itself without an amount."""
    unread: tuple[pa.Table, ...] = ()
    """Unreadable events logged on the day itself, as tables of `_aside`."""

    @classmethod
    def of(cls, kind: str, batches: Sequence[EventBatch], *, valued: bool = False) -> OutcomeEvents:
        """Sort events, separate the unreadable ones and drop duplicates.

        Args:
            kind: `click` or `conversion`.
            batches: Events in the order of the logs.
            valued: Whether events have amounts, even if there are no events.
        """
        if not batches:
            nothing, never = np.zeros(0, np.int64), np.zeros(0, bool)
            value = np.zeros(0) if valued else None
            return cls(kind, pa.array([], pa.string()), nothing, nothing, never, never, value)
        key = _together([batch.key for batch in batches])
        time = pa.concat_arrays([batch.time for batch in batches])
        own = np.repeat([batch.own for batch in batches], [len(batch.key) for batch in batches])
        local = np.concatenate(
            [np.zeros(len(batch.key), bool) if batch.is_local is None else batch.is_local
             for batch in batches]
        )  # fmt: skip
        reason, text = (
            pa.concat_arrays(
                [column if (column := getattr(batch, name)) is not None
                 else pa.nulls(len(batch.key), pa.string()) for batch in batches]
            )
            for name in ("reason", "text")
        )  # fmt: skip
        for why, rows in ((NO_KEY, pc.is_null(key)), (NO_TIME, pc.is_null(time))):
            fresh = pc.and_(rows, pc.is_null(reason))
            reason = pc.if_else(fresh, why.format(kind), reason)
        good = np.asarray(pc.is_null(reason))
        at = pa.array(~good & own)
        unread = _aside(kind, *(column.filter(at) for column in (key, time, reason, text)))
        at = pa.array(good)
        coded = key.filter(at).dictionary_encode()
        code = np.asarray(coded.indices, np.int64)
        when = np.asarray(time.filter(at).cast(pa.int64()))
        own, local = own[good], local[good]
        again = np.zeros(len(code), bool)
        order = np.lexsort((when, code))
        again[order[1:]] = (np.diff(code[order]) == 0) & (np.diff(when[order]) == 0)
        if others := [batch.event_key for batch in batches if batch.event_key is not None]:
            # An event's own key is a better identity than its time; events without a key use the
            # time.
            own_key = _together(others).filter(at).dictionary_encode().indices
            event = np.asarray(pc.fill_null(own_key, -1), np.int64)
            order = np.argsort(event, kind="stable")
            again &= event < 0
            again[order[1:]] |= (np.diff(event[order]) == 0) & (event[order[1:]] >= 0)
        unique = np.flatnonzero(~again)
        unique = unique[np.lexsort((when[unique], code[unique]))]
        events = cls(
            kind, coded.dictionary, code[unique], when[unique], own[unique], local[unique], None,
            duplicates=int((again & own).sum()), unread=(unread,) if len(unread) else (),
        )  # fmt: skip
        if values := [batch.value for batch in batches if batch.value is not None]:
            value = np.concatenate(values)[good][unique]
            events.without_value = int((np.isnan(value) & events.own).sum())
            events.value = np.where(np.isnan(value), 0.0, value)
        return events


class Join:
    """Joins batches of a day's impressions with its events.

    Args:
        events: Events by kind: `click` and, if there are any, `conversion`.
        touch: Which of several clicks counts: `first` or `last`.
        window: Microseconds after the impression within which an event counts.
        click_through: Microseconds after the click within which a conversion counts.
        view_through: Microseconds after the impression within which a conversion without a click
            counts; 0: such conversions do not count.
        days: Number of earlier days that are searched for the impression of an event.
        zone: Time zone of times that state none.
    """

    def __init__(
        self,
        events: Mapping[str, OutcomeEvents],
        *,
        touch: str,
        window: int,
        click_through: int,
        view_through: int,
        days: int,
        zone: str = "UTC",
    ) -> None:
        self._events, self._touch, self._window = dict(events), touch, window
        self._click_through, self._view_through = click_through, view_through
        self._matched = {kind: np.zeros(len(of_kind.ids), bool) for kind, of_kind in events.items()}
        self._elsewhere = {
            kind: np.zeros(len(of_kind.ids), bool) for kind, of_kind in events.items()
        }
        self._early = {kind: np.zeros(len(of_kind.key), bool) for kind, of_kind in events.items()}
        before = "the day before" if days == 1 else f"the {days} days before"
        self._searched = f"its day or {before}" if days else "its day"
        self._zone = zone
        self._is_open = False
        self._delays: dict[str, list[Ints]] = {kind: [] for kind in events}
        self._late = dict.fromkeys(events, 0)
        self._views = 0

    def add(self, key: pa.ChunkedArray, time: pa.Array) -> dict[str, pa.Array]:
        """Join some impressions.

        Args:
            key: Ids of the impressions; of several with the same id, the first gets the events.
            time: timestamp[us, UTC], null if it cannot be read.

        Returns:
            The columns that the join adds.
        """
        rows = len(time)
        shown = np.asarray(pc.fill_null(time.cast(pa.int64()), 2**62))
        clicks = self._events[CLICK]
        row, ok = self._rows(CLICK, key, shown)
        click_row, click_time = row[ok], clicks.time[ok]
        first, last = _first(click_row, click_time, rows), _last(click_row, click_time, rows)
        chosen = last if self._touch == "last" else first
        self._delays[CLICK].append(_waits(first, shown))
        columns = _columns(CLICK, np.bincount(click_row, minlength=rows), chosen)
        if CONVERSION in self._events:
            columns |= self._converted(key, shown, click_row, click_time, first)
        return columns

    def _converted(
        self, key: pa.ChunkedArray, shown: Ints, click_row: Ints, click_time: Ints, first: Ints
    ) -> dict[str, pa.Array]:
        events, rows = self._events[CONVERSION], len(shown)
        row, ok = self._rows(CONVERSION, key, shown)
        at, when = row[ok], events.time[ok]
        click = _latest(click_row, click_time, at, when)
        if self._touch == "first":
            click = np.where(click >= 0, first[at], -1)
        through = (click >= 0) & (when - click <= self._click_through)
        view = (click < 0) & (when - shown[at] <= self._view_through) & (self._view_through > 0)
        counts = through | view
        self._late[CONVERSION] += int((~counts).sum())
        self._views += int(view.sum())
        at, when = at[counts], when[counts]
        earliest = _first(at, when, rows)
        self._delays[CONVERSION].append(_waits(earliest, shown))
        columns = _columns(CONVERSION, np.bincount(at, minlength=rows), earliest)
        if events.value is not None:
            money = np.bincount(at, events.value[ok][counts], minlength=rows)
            columns["conversion_value"] = pa.array(money.astype(np.float64))
        return columns

    def _rows(self, kind: str, key: pa.ChunkedArray, shown: Ints) -> tuple[Ints, Bools]:
        """Find the impression of each event, [events] or -1, and whether the event counts."""
        events, matched = self._events[kind], self._matched[kind]
        position = _positions(key, events.ids)
        at = np.flatnonzero(position >= 0)
        ids, first = np.unique(position[at], return_index=True)
        fresh = ~matched[ids]
        row_of = np.full(len(events.ids), -1, np.int64)
        row_of[ids[fresh]] = at[first[fresh]]
        matched[ids] = True
        row = row_of[events.key]
        has_impression = row >= 0
        wait = np.where(has_impression, events.time - shown[row] if len(shown) else 0, 0)
        readable = has_impression & (shown[row] < 2**62 if len(shown) else False)
        early = readable & (wait < 0)
        if (moved := early & events.is_local).any():
            # Local times of the hour that occurs twice are read as the first occurrence.
            later = second_occurrence(events.time[moved], self._zone)
            events.time[moved] = np.where(later >= shown[row[moved]], later, events.time[moved])
            wait = np.where(early, events.time - shown[row], wait)
            early &= wait < 0
        self._early[kind] |= early
        ok = readable & ~early & (wait <= self._window)
        self._late[kind] += int((has_impression & ~early & ~ok).sum())
        return row, ok

    def known_elsewhere(self, key: pa.Array) -> None:
        """Record impressions of earlier days: their events are not orphans."""
        for kind, events in self._events.items():
            position = _positions(pa.chunked_array([key]), events.ids)
            self._elsewhere[kind][position[position >= 0]] = True

    def may_be_older(self) -> None:
        """Record that logs of earlier impressions are missing: no event is called an orphan."""
        self._is_open = True

    def is_done(self) -> bool:
        """Whether the impression of every event of the day has been found."""
        return not any(self._alone(kind).any() for kind in self._events)

    def _alone(self, kind: str) -> Bools:
        events = self._events[kind]
        known = self._matched[kind] | self._elsewhere[kind]
        return events.own & ~known[events.key]

    def aside(self) -> pa.Table:
        """Events that could not be joined, as a table of `_aside`."""
        tables: list[pa.Table] = []
        for kind, events in self._events.items():
            tables += events.unread
            for why, rows in ((ORPHAN, self._alone(kind)), (EARLY, self._early[kind])):
                if rows.any() and not (why is ORPHAN and self._is_open):
                    ids = events.ids.take(pa.array(events.key[rows]))
                    time = pa.array(events.time[rows]).cast(MICROSECOND)
                    reason = pa.array([why.format(kind, self._searched)] * len(ids))
                    tables.append(_aside(kind, ids, time, reason))
        return pa.concat_tables(tables) if tables else _aside("", *[pa.array([], pa.string())] * 3)

    def figures(self) -> dict[str, float]:
        """Counts of the events logged on the day, and delays of those joined to its impressions."""
        figures: dict[str, float] = {}
        for kind, events in self._events.items():
            logged = int(events.own.sum())
            waits = np.concatenate(self._delays[kind]) if self._delays[kind] else np.zeros(0)
            figures[f"{kind}s"] = logged
            figures[f"{kind}s_repeated"] = events.duplicates
            figures[f"{kind}s_unreadable"] = sum(map(len, events.unread))
            figures[f"{kind}s_orphans"] = 0 if self._is_open else int(self._alone(kind).sum())
            if self._is_open:
                figures[f"{kind}s_before_the_logs"] = int(self._alone(kind).sum())
            figures[f"{kind}s_early"] = int(self._early[kind].sum())
            figures[f"{kind}s_outside_window"] = self._late[kind]
            figures[f"{kind}s_joined"] = len(waits)
            if len(waits):
                median, late = np.quantile(waits / HOUR, (0.5, 0.95))
                figures[f"{kind}s_delay_median_hours"] = float(median)
                figures[f"{kind}s_delay_p95_hours"] = float(late)
        if CONVERSION in self._events:
            figures["conversions_view_through"] = self._views
            if self._events[CONVERSION].value is not None:
                figures["conversions_without_value"] = self._events[CONVERSION].without_value
        return figures


def _aside(
    kind: str, key: pa.Array, time: pa.Array, reason: pa.Array, text: pa.Array | None = None
) -> pa.Table:
    """Table of events that are set aside: `kind`, `key` as text, `time`, `nb_reason`, `nb_text`.

    `nb_text` is the unreadable value; None: the key.
    """
    key = key.cast(pa.string())
    return pa.table(
        {
            "kind": pa.array([kind] * len(key), pa.string()),
            "key": key,
            "time": time,
            REASON: reason,
            TEXT: key if text is None else pc.coalesce(text, key),
        }
    )


def _columns(kind: str, counts: Ints, time: Ints) -> dict[str, pa.Array]:
    flag = "clicked" if kind == CLICK else "converted"
    return {
        flag: pa.array((counts > 0).astype(np.int8)),
        f"{kind}_time": pa.array(time, mask=counts == 0).cast(MICROSECOND),
        f"{kind}s": pa.array(counts.astype(np.int32)),
    }


def _first(row: Ints, time: Ints, rows: int) -> Ints:
    earliest = np.full(rows, 2**62, np.int64)
    np.minimum.at(earliest, row, time)
    return earliest


def _last(row: Ints, time: Ints, rows: int) -> Ints:
    latest = np.full(rows, -1, np.int64)
    np.maximum.at(latest, row, time)
    return latest


def _waits(time: Ints, shown: Ints) -> Ints:
    known = (time < 2**62) & (time >= 0)
    waits: Ints = time[known] - shown[known]
    return waits


def _latest(row: Ints, time: Ints, at: Ints, when: Ints) -> Ints:
    """Time of the latest click of the same row that is not after a conversion; -1 without one.

    Args:
        row: [clicks], row of each click's impression.
        time: [clicks], microseconds.
        at: [conversions], row of each conversion's impression.
        when: [conversions], microseconds.
    """
    rows, times = np.concatenate([row, at]), np.concatenate([time, when])
    is_click = np.arange(len(rows)) < len(row)
    order = np.lexsort((~is_click, times, rows))
    newest = np.maximum.accumulate(np.where(is_click[order], np.arange(len(order)), -1))
    same = (newest >= 0) & (rows[order][newest] == rows[order])
    click_times = np.full(len(rows), -1, np.int64)
    click_times[order] = np.where(same, times[order][newest], -1)
    latest: Ints = click_times[len(row) :]
    return latest


def _positions(key: pa.ChunkedArray, ids: pa.Array) -> Ints:
    """Index of each key in the distinct ids, int64 [keys]; -1 for a key that is not among them."""
    if not len(ids):
        return np.full(len(key), -1, np.int64)
    one, other = _comparable(whole(key)), ids
    if one.type != other.type:
        one, other = one.cast(pa.string()), other.cast(pa.string())
    positions = pc.index_in(one, value_set=other, skip_nulls=True)
    return np.asarray(pc.fill_null(positions, -1), np.int64)


def _together(arrays: Sequence[pa.Array]) -> pa.Array:
    same = [_comparable(array) for array in arrays]
    if len({array.type for array in same}) > 1:
        same = [array.cast(pa.string()) for array in same]
    return pa.concat_arrays(same)


def _comparable(array: pa.Array) -> pa.Array:
    """Convert ids to int64 or text, so that streams with different id types join.

    A whole number is the same id as integer, float, decimal or text: 7, 7.0 and 7.00.
    """
    array = plain_array(array)
    if pa.types.is_integer(array.type) and not pa.types.is_uint64(array.type):
        return array.cast(pa.int64())
    if pa.types.is_floating(array.type):
        codes, tokens = encode(array)
        return tokens.take(pa.array(codes, mask=codes < 0))
    if pa.types.is_decimal(array.type):
        return pc.replace_substring_regex(array.cast(pa.string()), r"\.0+$", "")
    return array.cast(pa.string())
