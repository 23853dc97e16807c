"""Caches of the request lookup: values of contexts, of rows, and of pairs of both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from nightbid.features.values import RawColumns
from nightbid.serving.json_values import from_json
from nightbid.serving.lookup import Array, ServedFeature
from nightbid.serving.request_values import ContextInputs, SharedValues, quick, value_of

MOST_KEY_BYTES = 32 << 20
"""Maximum bytes of JSON keys in a memo of rows; a full memo is cleared."""
MOST_PAIR_BYTES = 64 << 20
"""Maximum bytes of values in a memo of pairs; a full memo is cleared."""
Row = Mapping[str, Any]


class ContextMemo:
    """Memo of one feature that reads context columns only."""

    def __init__(self, feature: ServedFeature, types: Mapping[str, pa.DataType]) -> None:
        self.feature = feature
        self.by_day = feature.when == "day"
        self.is_kept = _repeats(feature, feature.sources, types)
        self.key = itemgetter(*feature.sources)
        self.known: dict[Any, ContextInputs] = {}
        self.quick = quick(feature, types)

    def compute(self, raw: RawColumns) -> ContextInputs:
        """Apply the transform to one row."""
        return value_of(self.feature.compute(raw))


class RowMemo:
    """Memo of at most `capacity` rows: JSON of a row → index into the stored values."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self.slots: dict[bytes, int] = {}
        self._bytes = 0

    def is_full(self, new: list[bytes]) -> bool:
        """Return whether new rows exceed the limits."""
        size = sum(map(len, new))
        return bool(self.slots) and (
            len(self.slots) + len(new) > self._capacity or self._bytes + size > MOST_KEY_BYTES
        )

    def add(self, new: list[bytes]) -> None:
        """Assign the next indices to new rows."""
        first = len(self.slots)
        self.slots.update(zip(new, range(first, first + len(new)), strict=True))
        self._bytes += sum(map(len, new))


class GrowingMatrix:
    """A growing matrix of rows."""

    def __init__(self, width: int, dtype: Any) -> None:
        self.values = np.zeros((256, width), dtype)

    def put(self, first: int, values: Array) -> None:
        """Write rows, starting at an index."""
        last = first + len(values)
        if last > len(self.values):
            grown = np.zeros((2 * last, self.values.shape[1]), self.values.dtype)
            grown[:first] = self.values[:first]
            self.values = grown
        self.values[first:last] = values


class ScalarInputs:
    """All scalar inputs of one type: first those of the context, then those of rows."""

    def __init__(self, once: list[str], per_row: list[str], dtype: Any) -> None:
        self.names = (*once, *per_row)
        self._once = len(once)
        self._dtype = dtype
        self.stored = GrowingMatrix(len(per_row), dtype)

    def fill(self, feed: dict[str, Array], once: Any, slots: Array) -> None:
        """Add the inputs for a request to `feed`."""
        values = np.empty((len(self.names), len(slots)), self._dtype)
        if self._once:
            values[: self._once] = np.array(once, self._dtype)[:, None]
        values[self._once :] = self.stored.values.take(slots, axis=0).T
        feed.update(zip(self.names, values, strict=True))


class Matrix:
    """An input with a list per row."""

    def __init__(self, name: str, length: int, dtype: Any, *, is_shared: bool) -> None:
        self.name = name
        self.stored = None if is_shared else GrowingMatrix(length, dtype)

    def fill(self, feed: dict[str, Array], once: Any, slots: Array) -> None:
        """Add the input for a request to `feed`."""
        if self.stored is None:
            feed[self.name] = once[self.name].repeat(len(slots), axis=0)
        else:
            feed[self.name] = self.stored.values.take(slots, axis=0)


class PairMemo:
    """Memo of a feature that reads both context and row columns."""

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
        """Clear the memo."""
        self.codes = GrowingMatrix(1, np.int64)
        """[slots, 1]: code of the row's own values."""
        self._code_of: dict[bytes, int] = {}
        self._contexts: dict[Any, _CachedPairs] = {}
        self._bytes = 0

    def learn(self, first: int, decoded: list[Row]) -> None:
        """Assign codes to the own values of new rows."""
        codes = []
        for row in decoded:
            key = orjson.dumps([row[name] for name in self.own])
            codes.append(self._code_of.setdefault(key, len(self._code_of)))
        self.codes.put(first, np.array(codes, np.int64)[:, None])

    def fill(
        self,
        feed: dict[str, Array],
        parsed: SharedValues,
        day: int | None,
        keys: list[bytes],
        slots: Array,
    ) -> None:
        """Add the feature's inputs for a request to `feed`."""
        if not self._is_kept:
            feed.update(self._compute(parsed, keys))
            return
        codes = self.codes.values.take(slots)
        known = self._of_context(parsed, day)
        is_known = known.has.take(codes)
        if not is_known.all():
            new, at = np.unique(codes[~is_known], return_index=True)
            at = np.flatnonzero(~is_known)[at]
            self.missed += len(new)
            values = self._compute(parsed, [keys[row] for row in at.tolist()])
            for name, stored in known.values.items():
                stored[new] = values[name]
            known.has[new] = True
        for name, stored in known.values.items():
            feed[name] = stored.take(codes, axis=0)

    def _of_context(self, parsed: SharedValues, day: int | None) -> _CachedPairs:
        """Return the values cached for a context, with space for every code."""
        context = (*(parsed.given[name] for name in self._shared), day if self._by_day else None)
        size = len(self._code_of)
        known = self._contexts.get(context)
        if known is None or len(known.has) < size:
            room = size + size // 4
            grown = _CachedPairs.of(self._feature, room)
            if known is not None:
                grown.take_over(known)
            self._bytes += grown.bytes - (known.bytes if known else 0)
            if self._bytes > MOST_PAIR_BYTES:
                self._contexts, self._bytes = {}, grown.bytes
            self._contexts[context] = known = grown
        return known

    def _compute(self, parsed: SharedValues, keys: list[bytes]) -> dict[str, Array]:
        decoded = [parsed.decode(key) for key in keys]
        types = parsed.types
        again = pa.array(np.zeros(len(keys), np.int64))
        raw = {name: from_json([row[name] for row in decoded], types[name]) for name in self.own}
        for name in self._batch_names:
            raw[name] = parsed.array(name).take(again)
        return self._feature.compute(pa.record_batch(raw))


@dataclass(frozen=True)
class _CachedPairs:
    """Cached values of a pair feature in one context."""

    has: npt.NDArray[np.bool_]
    """[codes] whether the value is cached."""
    values: dict[str, Array]
    """Graph input → [codes] or [codes, length]."""

    @classmethod
    def of(cls, feature: ServedFeature, size: int) -> _CachedPairs:
        """Allocate arrays."""
        values = {
            name: np.zeros((size, length) if length else size, dtype)
            for name, length, dtype in feature.outputs
        }
        return cls(np.zeros(size, bool), values)

    @property
    def bytes(self) -> int:
        """Size of all arrays in bytes."""
        return self.has.nbytes + sum(array.nbytes for array in self.values.values())

    def take_over(self, other: _CachedPairs) -> None:
        """Copy the values of a smaller instance."""
        size = len(other.has)
        self.has[:size] = other.has
        for name, values in other.values.items():
            self.values[name][:size] = values


def _repeats(
    feature: ServedFeature, sources: Iterable[str], types: Mapping[str, pa.DataType]
) -> bool:
    """Return whether values are likely to repeat: floats and times rarely do."""
    return feature.when != "time" and not any(
        pa.types.is_floating(types[name]) or pa.types.is_timestamp(types[name]) for name in sources
    )
