"""From the JSON of a request to graph inputs: what was met before is not even parsed.

A request names one user in one context and many candidates. Features of the context alone are
looked up once, by the JSON of each value. Those of a candidate alone are remembered by the JSON of
its whole row, in one memo for all of them. Only features of both are looked up per row.

Values that are new are read and checked as `nightbid.scorer.rows` does, and go through the
transforms that training used. Equal JSON gives equal inputs, so what is remembered cannot differ:
1, 1.0, true and "1" are different texts.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import msgspec
import numpy as np
import orjson
import pyarrow as pa

from nightbid.column_parsing import LARGEST, Floats, as_time
from nightbid.config.features import Identity, Numeric
from nightbid.errors import NightbidError
from nightbid.features.fitted import FittedFeatures
from nightbid.features.transforms import Bucketed, Scaled, TimePartTransform
from nightbid.features.values import DAY_US, RawColumns, clipped_log, days_of
from nightbid.serving.json_values import from_json
from nightbid.serving.lookup import BATCH, CAPACITY, Array, ServedFeature, served_features

MOST_KEY_BYTES = 32 << 20
"""Bytes of JSON that a memo of rows may hold; a full memo starts over."""
MOST_LAYOUTS = 32
"""Sets of columns in the context that are prepared for."""
SELDOM = 0.1
"""A memo that knew a smaller share of as many rows as it can hold is not used any more."""
EXACT = 2**53
"""Smaller integers are float64 numbers."""
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
MICROSECOND = dt.timedelta(microseconds=1)
EARLIEST, LATEST = 1900, 2200
"""Years between which no time zone matters to Python's limits."""
Row = Mapping[str, Any]


class UnusualRequestError(NightbidError):
    """A request that has to be read column by column. Caught within the scorer."""


class RequestLookup:
    """Looks the features of requests up. Not to be shared by threads.

    Args:
        fitted: The features.
        columns: Names and types of the raw columns that the served ones read.
    """

    def __init__(self, fitted: FittedFeatures, columns: pa.Schema) -> None:
        self._features = served_features(fitted)
        self._time = fitted.definition.time
        self._columns = {each.name: each.type for each in columns}
        # A decimal may have more digits than orjson's 64 bits.
        exact = any(pa.types.is_decimal(each) for each in columns.types)
        self._decode: Callable[[bytes], Any] = json.loads if exact else orjson.loads
        self._layouts: dict[tuple[str, ...], _Layout] = {}
        self._contexts = {
            each.name: _Context(each, self._columns) for each in self._features if each.sources
        }
        self.missed = 0
        """Feature values that had to be computed so far."""

    def inputs(
        self, context: Mapping[str, msgspec.Raw], rows: list[msgspec.Raw]
    ) -> dict[str, Array]:
        """Look up a request.

        Args:
            context: JSON of each value that all rows share.
            rows: JSON of each row.

        Returns:
            Column of a served input → [rows] or [rows, length], as the graph takes it.

        Raises:
            UnusualRequestError: The rows are better read column by column.
            Exception: Something is wrong with them; reading them column by column says what.
        """
        if not 0 < len(rows) <= BATCH:
            raise UnusualRequestError("no rows, or too many")
        layout = self._layout(tuple(context))
        given = {name: bytes(context[name]) for name in layout.shared}
        parsed = _Shared(given, self._columns, self._decode)
        day = None
        if layout.reads_day:
            day = parsed.day(self._time)
        once = self._shared_values(layout, parsed, day)
        keys = list(map(bytes, rows))
        slots = self._row_slots(layout, keys)
        feed: dict[str, Array] = {}
        for at, block in enumerate(layout.blocks):
            block.fill(feed, once[at], slots)
        for matrix in layout.matrices:
            matrix.fill(feed, once[2], slots)
        for both in layout.both:
            both.fill(feed, layout, parsed, day, keys, slots, self)
        return feed

    def _layout(self, names: tuple[str, ...]) -> _Layout:
        found = self._layouts.get(names)
        if found is None:
            if len(self._layouts) >= MOST_LAYOUTS:
                self._layouts.clear()
            found = _Layout.of(self._features, self._contexts, names, self._columns, self._time)
            self._layouts[names] = found
        if not found.is_usual:
            raise UnusualRequestError("rows that seldom repeat")
        return found

    def _shared_values(
        self, layout: _Layout, parsed: _Shared, day: int | None
    ) -> tuple[list[int], list[float], dict[str, Array]]:
        """Values of the features of the context alone: ints, floats and matrices by name."""
        found: list[Any] = []
        missing: list[int] = []
        keys: list[Any] = []
        given = parsed.given
        for at, each in enumerate(layout.once):
            key = each.key(given)
            if each.by_day:
                key = (key, day)
            keys.append(key)
            value = each.known.get(key) if each.is_kept else None
            if value is None:
                missing.append(at)
            found.append(value)
        if missing:
            self.missed += len(missing)
            slow = [layout.once[at].feature for at in missing if not layout.once[at].quick]
            names = {name for feature in slow for name in feature.reads}
            raw = RawColumns(pa.record_batch({name: parsed.array(name) for name in names}))
            for at in missing:
                each = layout.once[at]
                found[at] = value = each.quick(parsed) if each.quick else each.compute(raw)
                if each.is_kept:
                    if len(each.known) >= CAPACITY:
                        each.known.clear()
                    each.known[keys[at]] = value
        ints: list[int] = []
        floats: list[float] = []
        matrices: dict[str, Array] = {}
        for value in found:
            ints += value.ints
            floats += value.floats
            if value.matrices:
                matrices.update(value.matrices)
        return ints, floats, matrices

    def _row_slots(self, layout: _Layout, keys: list[bytes]) -> Array:
        memo = layout.rows
        found = list(map(memo.slots.get, keys))
        if None in found:
            new = list(dict.fromkeys(k for k, at in zip(keys, found, strict=True) if at is None))
            layout.watch(len(keys), len(new))
            decoded = [self._decode(key) for key in new]
            for row in decoded:
                if type(row) is not dict or not layout.shared_set.isdisjoint(row):
                    raise UnusualRequestError("a row overrides the context")
            self.missed += len(new) * len(layout.per_row)
            if memo.is_full(new):
                layout.forget()
                new = list(dict.fromkeys(keys))
                decoded = [self._decode(key) for key in new]
            batch = pa.record_batch(
                {
                    name: from_json([row[name] for row in decoded], self._columns[name])
                    for name in layout.own
                }
            )
            layout.learn(new, decoded, batch)
            found = list(map(layout.rows.slots.get, keys))
        else:
            layout.watch(len(keys), 0)
        return np.array(found, np.int64)


@dataclass(frozen=True)
class _Value:
    """What a feature of the context is, for one request."""

    ints: tuple[int, ...]
    floats: tuple[float, ...]
    matrices: dict[str, Array]
    """[1, length]"""


class _Shared:
    """The values of a context, parsed where something reads them."""

    def __init__(
        self,
        given: dict[str, bytes],
        types: Mapping[str, pa.DataType],
        decode: Callable[[bytes], Any],
    ) -> None:
        self.given = given
        self._types, self._decode = types, decode
        self._arrays: dict[str, pa.Array] = {}
        self._moments: dict[str, int | None] = {}

    def number(self, name: str) -> float:
        """A value of a float64 column; NaN if it is null."""
        value = self._decode(self.given[name])
        if value is None:
            return math.nan
        if type(value) is float or (type(value) is int and abs(value) < EXACT):
            return value
        raise UnusualRequestError("not a number that float64 holds exactly")

    def moment(self, name: str) -> int | None:
        """Microseconds since 1970 of a time; None where that takes more than Python's parser."""
        if name not in self._moments:
            self._moments[name] = self._moment(name)
        return self._moments[name]

    def _moment(self, name: str) -> int | None:
        kind = self._types[name]
        value = self._decode(self.given[name])
        if not isinstance(value, str) or not pa.types.is_timestamp(kind) or kind.unit != "us":
            return None
        found = dt.datetime.fromisoformat(value)
        if not EARLIEST < found.year < LATEST:
            return None
        aware = found if found.tzinfo else found.replace(tzinfo=dt.UTC)
        return (aware - EPOCH) // MICROSECOND

    def day(self, name: str) -> int:
        """Days since 1970 of a time; 0 if it is null."""
        moment = self.moment(name)
        if moment is None:
            return int(days_of(as_time(self.array(name)))[0])
        return moment // DAY_US

    def array(self, name: str) -> pa.Array:
        """A column of one row."""
        found = self._arrays.get(name)
        if found is None:
            found = from_json([self._decode(self.given[name])], self._types[name])
            self._arrays[name] = found
        return found


class _Context:
    """Memo of one feature, where all that it reads is in the context."""

    def __init__(self, feature: ServedFeature, types: Mapping[str, pa.DataType]) -> None:
        self.feature = feature
        self.by_day = feature.when == "day"
        self.is_kept = _repeats(feature, feature.sources, types)
        self.key = itemgetter(*feature.sources)
        self.known: dict[Any, _Value] = {}
        self.quick = self._quick(types)

    def _quick(self, types: Mapping[str, pa.DataType]) -> Callable[[_Shared], _Value] | None:
        """A way around Arrow, for numbers and times that come once: the same arithmetic."""
        transform, name = self.feature.transform, self.feature.sources[0]
        if isinstance(transform, TimePartTransform):
            if isinstance(transform.feature, Identity) or not pa.types.is_timestamp(types[name]):
                return None

            def of_moment(parsed: _Shared) -> _Value:
                moment = parsed.moment(name)
                if moment is None:
                    return self.compute(RawColumns(pa.record_batch({name: parsed.array(name)})))
                return self._value({name: transform.of_moments(np.array([moment], np.int64))})

            return of_moment
        if not pa.types.is_float64(types[name]):
            return None
        if isinstance(transform, Bucketed):
            return lambda parsed: self._value(transform.of_numbers(_readable(parsed.number(name))))
        if isinstance(transform, Scaled) and isinstance(feature := transform.feature, Numeric):
            return lambda parsed: self._value(
                transform.of_numbers(clipped_log(feature, _readable(parsed.number(name))))
            )
        return None

    def compute(self, raw: RawColumns) -> _Value:
        """Apply the transform to one row."""
        return self._value(self.feature.compute(raw))

    def _value(self, made: Mapping[str, Array]) -> _Value:
        ints: list[int] = []
        floats: list[float] = []
        matrices = {}
        for name, values in made.items():
            if values.ndim == 2:
                matrices[name] = values
            elif values.dtype == np.int32:
                ints.append(int(values[0]))
            else:
                floats.append(float(values[0]))
        return _Value(tuple(ints), tuple(floats), matrices)


class _Rows:
    """Memo of rows: the JSON of a row → its place in the stored values."""

    def __init__(self) -> None:
        self.slots: dict[bytes, int] = {}
        self._bytes = 0

    def is_full(self, new: list[bytes]) -> bool:
        """Whether these do not fit any more."""
        size = sum(map(len, new))
        return bool(self.slots) and (
            len(self.slots) + len(new) > CAPACITY or self._bytes + size > MOST_KEY_BYTES
        )

    def add(self, new: list[bytes]) -> None:
        """Give each the next place."""
        first = len(self.slots)
        self.slots.update(zip(new, range(first, first + len(new)), strict=True))
        self._bytes += sum(map(len, new))


class _Stored:
    """Rows of numbers that are appended to."""

    def __init__(self, width: int, dtype: Any) -> None:
        self.values = np.zeros((256, width), dtype)

    def put(self, first: int, values: Array) -> None:
        """Write rows from a place on."""
        last = first + len(values)
        if last > len(self.values):
            grown = np.zeros((2 * last, self.values.shape[1]), self.values.dtype)
            grown[:first] = self.values[:first]
            self.values = grown
        self.values[first:last] = values


class _Block:
    """All inputs of one type that are a number per row: those of the context, then the others."""

    def __init__(self, once: list[str], per_row: list[str], dtype: Any) -> None:
        self.names = (*once, *per_row)
        self._once = len(once)
        self._dtype = dtype
        self.stored = _Stored(len(per_row), dtype)

    def fill(self, feed: dict[str, Array], once: Any, slots: Array) -> None:
        """Add the inputs of a request."""
        values = np.empty((len(self.names), len(slots)), self._dtype)
        if self._once:
            values[: self._once] = np.array(once, self._dtype)[:, None]
        values[self._once :] = self.stored.values.take(slots, axis=0).T
        feed.update(zip(self.names, values, strict=True))


class _Matrix:
    """An input that is a list per row."""

    def __init__(self, name: str, length: int, dtype: Any, *, is_shared: bool) -> None:
        self.name = name
        self.stored = None if is_shared else _Stored(length, dtype)

    def fill(self, feed: dict[str, Array], once: Any, slots: Array) -> None:
        """Add it to the inputs of a request."""
        if self.stored is None:
            feed[self.name] = once[self.name].repeat(len(slots), axis=0)
        else:
            feed[self.name] = self.stored.values.take(slots, axis=0)


class _Both:
    """A feature of context and row: a memo of pairs."""

    def __init__(
        self, feature: ServedFeature, shared: frozenset[str], types: Mapping[str, pa.DataType]
    ) -> None:
        self._feature = feature
        self._shared = [name for name in feature.sources if name in shared]
        self.own = [name for name in feature.sources if name not in shared]
        self._batch_names = [name for name in feature.reads if name in shared]
        self._is_kept = _repeats(feature, self._shared, types)
        self._by_day = feature.when == "day"
        self.forget()

    def forget(self) -> None:
        """Start over."""
        self.codes = _Stored(1, np.int64)
        """[slots, 1]: number of the row's own values."""
        self._code_of: dict[bytes, int] = {}
        self._forget_pairs()

    def _forget_pairs(self) -> None:
        self._contexts: dict[Any, int] = {}
        self._pairs: dict[int, int] = {}
        self._values = {
            name: _Stored(max(length, 1), dtype) for name, length, dtype in self._feature.outputs
        }

    def learn(self, first: int, decoded: list[Row]) -> None:
        """Number the own values of new rows."""
        found = []
        for row in decoded:
            key = orjson.dumps([row[name] for name in self.own])
            found.append(self._code_of.setdefault(key, len(self._code_of)))
        self.codes.put(first, np.array(found, np.int64)[:, None])

    def fill(
        self,
        feed: dict[str, Array],
        layout: _Layout,
        parsed: _Shared,
        day: int | None,
        keys: list[bytes],
        slots: Array,
        lookup: RequestLookup,
    ) -> None:
        """Add its inputs."""
        codes = self.codes.values.take(slots)
        if not self._is_kept:
            values = self._compute(layout, parsed, keys, lookup)
            feed.update(values)
            return
        context = (*(parsed.given[name] for name in self._shared), day if self._by_day else None)
        if len(self._pairs) + len(codes) > CAPACITY or len(self._contexts) >= CAPACITY:
            self._forget_pairs()
        number = self._contexts.setdefault(context, len(self._contexts))
        pairs = (codes + (number << 32)).tolist()
        found = list(map(self._pairs.get, pairs))
        if None in found:
            new = {p: at for at, (p, f) in enumerate(zip(pairs, found, strict=True)) if f is None}
            lookup.missed += len(new)
            values = self._compute(layout, parsed, [keys[at] for at in new.values()], lookup)
            first = len(self._pairs)
            for name, stored in self._values.items():
                stored.put(first, values[name].reshape(len(new), -1))
            self._pairs.update(zip(new, range(first, first + len(new)), strict=True))
            found = list(map(self._pairs.get, pairs))
        places = np.array(found, np.int64)
        for name, length, _ in self._feature.outputs:
            values_at = self._values[name].values.take(places, axis=0)
            feed[name] = values_at if length else values_at[:, 0]

    def _compute(
        self, layout: _Layout, parsed: _Shared, keys: list[bytes], lookup: RequestLookup
    ) -> dict[str, Array]:
        decoded = [lookup._decode(key) for key in keys]
        types = lookup._columns
        again = pa.array(np.zeros(len(keys), np.int64))
        raw = {name: from_json([row[name] for row in decoded], types[name]) for name in self.own}
        for name in self._batch_names:
            raw[name] = parsed.array(name).take(again)
        return self._feature.compute(RawColumns(pa.record_batch(raw)))


@dataclass
class _Layout:
    """Which features are looked up how, where these columns are in the context."""

    shared: tuple[str, ...]
    own: tuple[str, ...]
    once: list[_Context]
    per_row: list[ServedFeature]
    both: list[_Both]
    reads_day: bool
    is_usual: bool
    rows: _Rows = field(default_factory=_Rows)
    blocks: tuple[_Block, _Block] = field(init=False)
    matrices: list[_Matrix] = field(init=False)
    _seen: int = 0
    _new: int = 0

    @classmethod
    def of(
        cls,
        features: list[ServedFeature],
        contexts: Mapping[str, _Context],
        names: tuple[str, ...],
        types: Mapping[str, pa.DataType],
        time: str,
    ) -> _Layout:
        shared = frozenset(names) & types.keys()
        own = tuple(name for name in types if name not in shared)
        once = [contexts[e.name] for e in features if shared.issuperset(e.reads)]
        per_row = [each for each in features if shared.isdisjoint(each.reads)]
        rest = [e for e in features if not (shared.issuperset(e.reads) or e in per_row)]
        both = [_Both(each, frozenset(shared), types) for each in rest]
        reads_day = time in shared and any(e.when == "day" for e in features if e not in per_row)
        # Rows with times of their own are not candidates of one request.
        is_usual = bool(own) and (time not in own)
        return cls(tuple(sorted(shared)), own, once, per_row, both, reads_day, is_usual)

    def __post_init__(self) -> None:
        self.shared_set = frozenset(self.shared)
        self._once_features = [each.feature for each in self.once]
        self.forget()

    def forget(self) -> None:
        """Start over."""
        self.rows = _Rows()
        self.blocks = (self._block(np.int32), self._block(np.float32))
        self.matrices = [
            _Matrix(name, length, dtype, is_shared=is_shared)
            for part, is_shared in ((self._once_features, True), (self.per_row, False))
            for feature in part
            for name, length, dtype in feature.outputs
            if length
        ]
        for both in self.both:
            both.forget()

    def watch(self, rows: int, new: int) -> None:
        """Count how many rows were known; give up where few are."""
        self._seen += rows
        self._new += new
        if self._seen >= CAPACITY:
            if self._new > (1 - SELDOM) * self._seen:
                self.is_usual = False
                self.forget()
                raise UnusualRequestError("rows that seldom repeat")
            self._seen = self._new = 0

    def learn(self, new: list[bytes], decoded: list[Row], batch: pa.RecordBatch) -> None:
        """Remember rows.

        Args:
            new: Their JSON.
            decoded: The same, decoded.
            batch: Their own columns.
        """
        raw = RawColumns(batch)
        made: dict[str, Array] = {}
        for feature in self.per_row:
            made.update(feature.compute(raw))
        first = len(self.rows.slots)
        for block in self.blocks:
            names = block.names[len(block.names) - block.stored.values.shape[1] :]
            if names:
                block.stored.put(first, np.stack([made[name] for name in names], axis=1))
        for matrix in self.matrices:
            if matrix.stored is not None:
                matrix.stored.put(first, made[matrix.name])
        for both in self.both:
            both.learn(first, decoded)
        self.rows.add(new)

    def _block(self, dtype: Any) -> _Block:
        once, per_row = (
            [n for each in part for n, length, kind in each.outputs if kind is dtype and not length]
            for part in (self._once_features, self.per_row)
        )
        return _Block(once, per_row, dtype)


def _repeats(
    feature: ServedFeature, sources: Iterable[str], types: Mapping[str, pa.DataType]
) -> bool:
    """Whether values are likely to come again: floats and times seldom do."""
    return feature.when != "time" and not any(
        pa.types.is_floating(types[name]) or pa.types.is_timestamp(types[name]) for name in sources
    )


def _readable(value: float) -> Floats:
    """A number as `nightbid.column_parsing.numbers` reads it; float64 [1]."""
    return np.array([value if abs(value) < LARGEST else math.nan])
