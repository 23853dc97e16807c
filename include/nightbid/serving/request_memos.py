"""What the lookup of requests remembers: values of a context, of rows, and of pairs of both."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from nightbid.column_parsing import LARGEST, Floats, as_time
from nightbid.errors import NightbidError
from nightbid.features.transforms.numbers import Bucketed, NumericTransform
from nightbid.features.transforms.times import TimePartTransform
from nightbid.features.values import DAY_US, RawColumns, clipped_log, days_of
from nightbid.serving.json_values import from_json
from nightbid.serving.lookup import CAPACITY, Array, ServedFeature

MOST_KEY_BYTES = 32 << 20
"""Bytes of JSON that a memo of rows may hold; a full memo starts over."""
EXACT = 2**53
"""Smaller integers are float64 numbers."""
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
MICROSECOND = dt.timedelta(microseconds=1)
EARLIEST, LATEST = 1900, 2200
"""Years between which no time zone matters to Python's limits."""
Row = Mapping[str, Any]


class UnusualRequestError(NightbidError):
    """A request that has to be read column by column. Caught within the scorer."""


@dataclass(frozen=True)
class Value:
    """What a feature of the context is, for one request."""

    ints: tuple[int, ...]
    floats: tuple[float, ...]
    matrices: dict[str, Array]
    """[1, length]"""


class SharedValues:
    """The values of a context, parsed where something reads them."""

    def __init__(
        self,
        given: dict[str, bytes],
        types: Mapping[str, pa.DataType],
        decode: Callable[[bytes], Any],
    ) -> None:
        self.given = given
        self.types, self.decode = types, decode
        self._arrays: dict[str, pa.Array] = {}
        self._moments: dict[str, int | None] = {}

    def number(self, name: str) -> float:
        """A value of a float64 column; NaN if it is null."""
        value = self.decode(self.given[name])
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
        kind = self.types[name]
        value = self.decode(self.given[name])
        if not isinstance(value, str) or not pa.types.is_timestamp(kind) or kind.unit != "us":
            return None
        found = dt.datetime.fromisoformat(value)
        if not EARLIEST < found.year < LATEST:
            return None
        aware = found if found.tzinfo else found.replace(tzinfo=dt.UTC)
        return (aware - EPOCH) // MICROSECOND

    def day(self, name: str, zone: str = "UTC") -> int:
        """Days since 1970 of a time by a zone's clock; 0 if it is null."""
        moment = self.moment(name) if zone == "UTC" else None
        if moment is None:
            return int(days_of(as_time(self.array(name), zone), zone)[0])
        return moment // DAY_US

    def array(self, name: str) -> pa.Array:
        """A column of one row."""
        found = self._arrays.get(name)
        if found is None:
            found = from_json([self.decode(self.given[name])], self.types[name])
            self._arrays[name] = found
        return found


class ContextMemo:
    """Memo of one feature, where all that it reads is in the context."""

    def __init__(self, feature: ServedFeature, types: Mapping[str, pa.DataType]) -> None:
        self.feature = feature
        self.by_day = feature.when == "day"
        self.is_kept = _repeats(feature, feature.sources, types)
        self.key = itemgetter(*feature.sources)
        self.known: dict[Any, Value] = {}
        self.quick = self._quick(types)

    def _quick(self, types: Mapping[str, pa.DataType]) -> Callable[[SharedValues], Value] | None:
        """A way around Arrow, for numbers and times that come once: the same arithmetic."""
        transform, name = self.feature.transform, self.feature.sources[0]
        if isinstance(transform, TimePartTransform):
            if not pa.types.is_timestamp(types[name]):
                return None

            def of_moment(parsed: SharedValues) -> Value:
                moment = parsed.moment(name)
                if moment is None:
                    return self.compute(RawColumns(pa.record_batch({name: parsed.array(name)})))
                return self._value({name: transform.of_moments(np.array([moment], np.int64))})

            return of_moment
        if not pa.types.is_float64(types[name]):
            return None
        if isinstance(transform, Bucketed):
            return lambda parsed: self._value(transform.of_numbers(_readable(parsed.number(name))))
        if isinstance(transform, NumericTransform):
            return lambda parsed: self._value(
                transform.of_numbers(clipped_log(transform.feature, _readable(parsed.number(name))))
            )
        return None

    def compute(self, raw: RawColumns) -> Value:
        """Apply the transform to one row."""
        return self._value(self.feature.compute(raw))

    def _value(self, made: Mapping[str, Array]) -> Value:
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
        return Value(tuple(ints), tuple(floats), matrices)


class RowMemo:
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


class Stored:
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


class Block:
    """All inputs of one type that are a number per row: those of the context, then the others."""

    def __init__(self, once: list[str], per_row: list[str], dtype: Any) -> None:
        self.names = (*once, *per_row)
        self._once = len(once)
        self._dtype = dtype
        self.stored = Stored(len(per_row), dtype)

    def fill(self, feed: dict[str, Array], once: Any, slots: Array) -> None:
        """Add the inputs of a request."""
        values = np.empty((len(self.names), len(slots)), self._dtype)
        if self._once:
            values[: self._once] = np.array(once, self._dtype)[:, None]
        values[self._once :] = self.stored.values.take(slots, axis=0).T
        feed.update(zip(self.names, values, strict=True))


class Matrix:
    """An input that is a list per row."""

    def __init__(self, name: str, length: int, dtype: Any, *, is_shared: bool) -> None:
        self.name = name
        self.stored = None if is_shared else Stored(length, dtype)

    def fill(self, feed: dict[str, Array], once: Any, slots: Array) -> None:
        """Add it to the inputs of a request."""
        if self.stored is None:
            feed[self.name] = once[self.name].repeat(len(slots), axis=0)
        else:
            feed[self.name] = self.stored.values.take(slots, axis=0)


class PairMemo:
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
        self.missed = 0
        self.forget()

    def forget(self) -> None:
        """Start over."""
        self.codes = Stored(1, np.int64)
        """[slots, 1]: number of the row's own values."""
        self._code_of: dict[bytes, int] = {}
        self._forget_pairs()

    def _forget_pairs(self) -> None:
        self._contexts: dict[Any, int] = {}
        self._pairs: dict[int, int] = {}
        self._values = {
            name: Stored(max(length, 1), dtype) for name, length, dtype in self._feature.outputs
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
        parsed: SharedValues,
        day: int | None,
        keys: list[bytes],
        slots: Array,
    ) -> None:
        """Add its inputs."""
        codes = self.codes.values.take(slots)
        if not self._is_kept:
            values = self._compute(parsed, keys)
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
            self.missed += len(new)
            values = self._compute(parsed, [keys[at] for at in new.values()])
            first = len(self._pairs)
            for name, stored in self._values.items():
                stored.put(first, values[name].reshape(len(new), -1))
            self._pairs.update(zip(new, range(first, first + len(new)), strict=True))
            found = list(map(self._pairs.get, pairs))
        places = np.array(found, np.int64)
        for name, length, _ in self._feature.outputs:
            values_at = self._values[name].values.take(places, axis=0)
            feed[name] = values_at if length else values_at[:, 0]

    def _compute(self, parsed: SharedValues, keys: list[bytes]) -> dict[str, Array]:
        decoded = [parsed.decode(key) for key in keys]
        types = parsed.types
        again = pa.array(np.zeros(len(keys), np.int64))
        raw = {name: from_json([row[name] for row in decoded], types[name]) for name in self.own}
        for name in self._batch_names:
            raw[name] = parsed.array(name).take(again)
        return self._feature.compute(RawColumns(pa.record_batch(raw)))


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
