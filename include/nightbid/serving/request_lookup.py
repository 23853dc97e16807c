"""Convert the JSON of a request to graph inputs; cached values are not even parsed.

A request names one user in one context, and many candidates. Features of the context only are
looked up once, keyed by the JSON of each value. Features of a candidate only are cached in one
memo, keyed by the JSON of the whole row. Only features of both are looked up per row.

New values are parsed and validated as in `nightbid.scorer.rows`, and go through the transforms that
training used. Equal JSON gives equal inputs, so cached values cannot differ: 1, 1.0, true and "1"
are different strings.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import orjson
import pyarrow as pa

from nightbid.anonymous import UserColumn
from nightbid.features.fitted import FittedFeatures
from nightbid.features.values import RawColumns
from nightbid.serving.json_values import from_json
from nightbid.serving.lookup import BATCH, CAPACITY, Array, ServedFeature, served_features
from nightbid.serving.request_memos import (
    ContextMemo,
    Matrix,
    PairMemo,
    Row,
    RowMemo,
    ScalarInputs,
)
from nightbid.serving.request_values import SharedValues, UnusualRequestError

MOST_LAYOUTS = 32
"""Maximum number of distinct sets of context columns with a prepared layout."""
SELDOM = 0.1
"""Minimum hit rate, over as many rows as a memo holds; below it, the memo is no longer used."""


class RequestLookup:
    """Looks up the features of requests. Not thread-safe.

    Args:
        fitted: Fitted features.
        columns: Names and types of the raw columns that the served features read.
        capacity: Maximum number of rows, and of values of each feature, that are kept.
    """

    def __init__(
        self, fitted: FittedFeatures, columns: pa.Schema, capacity: int = CAPACITY
    ) -> None:
        self._capacity = capacity
        self._features = served_features(fitted)
        self._time, self._zone = fitted.definition.time, fitted.definition.time_zone
        self._user = fitted.definition.user_column
        self._columns = {column.name: column.type for column in columns}
        # A decimal may have more digits than orjson's 64-bit numbers.
        exact = any(pa.types.is_decimal(kind) for kind in columns.types)
        self._decode: Callable[[bytes], Any] = json.loads if exact else orjson.loads
        self._layouts: dict[tuple[str, ...], _LookupPlan] = {}
        self._contexts = {
            feature.name: ContextMemo(feature, self._columns)
            for feature in self._features
            if feature.sources
        }
        for feature in self._features:
            if feature.transform.vocabulary is not None:
                feature.transform.vocabulary.prepare()
        self._missed = 0

    def inputs(
        self, context: Mapping[str, msgspec.Raw], rows: list[msgspec.Raw]
    ) -> dict[str, Array]:
        """Look up a request.

        Args:
            context: JSON of each value that all rows share.
            rows: JSON of each row.

        Returns:
            Graph input → [rows] or [rows, length].

        Raises:
            UnusualRequestError: The rows should be read column by column.
            Exception: The rows are invalid; reading them column by column reports the error.
        """
        if not 0 < len(rows) <= BATCH:
            raise UnusualRequestError("no rows, or too many")
        layout = self._layout(tuple(context))
        shared = {name: bytes(context[name]) for name in layout.shared}
        parsed = SharedValues(shared, self._columns, self._decode, self._user)
        day = None
        if layout.reads_day:
            day = parsed.day(self._time, self._zone)
        once = self._shared_values(layout, parsed, day)
        keys = list(map(bytes, rows))
        slots = self._row_slots(layout, keys)
        feed: dict[str, Array] = {}
        for at, block in enumerate(layout.blocks):
            block.fill(feed, once[at], slots)
        for matrix in layout.matrices:
            matrix.fill(feed, once[2], slots)
        for both in layout.both:
            both.fill(feed, parsed, day, keys, slots)
        return feed

    @property
    def missed(self) -> int:
        """Number of feature values computed so far because they were not cached."""
        pairs = (both.missed for layout in self._layouts.values() for both in layout.both)
        return self._missed + sum(pairs)

    def _layout(self, names: tuple[str, ...]) -> _LookupPlan:
        layout = self._layouts.get(names)
        if layout is None:
            if len(self._layouts) >= MOST_LAYOUTS:
                self._missed = self.missed
                self._layouts.clear()
            layout = _LookupPlan.of(
                self._features, self._contexts, names, self._columns, self._time, self._capacity
            )
            self._layouts[names] = layout
        if not layout.is_usual:
            raise UnusualRequestError("rows that seldom repeat")
        return layout

    def _shared_values(
        self, layout: _LookupPlan, parsed: SharedValues, day: int | None
    ) -> tuple[list[int], list[float], dict[str, Array]]:
        """Look up features of the context only: their integers, floats, and matrices by name."""
        values: list[Any] = []
        missing: list[int] = []
        keys: list[Any] = []
        raw_values = parsed.given
        for at, memo in enumerate(layout.once):
            key = memo.key(raw_values)
            if memo.by_day:
                key = (key, day)
            keys.append(key)
            value = memo.known.get(key) if memo.is_kept else None
            if value is None:
                missing.append(at)
            values.append(value)
        if missing:
            self._missed += len(missing)
            slow = [
                at for at in missing if not self._find(layout.once[at], parsed, day, values, at)
            ]
            if slow:
                names = {name for at in slow for name in layout.once[at].feature.reads}
                row = pa.record_batch({name: parsed.array(name) for name in names})
                raw = RawColumns(row, self._user)
                for at in slow:
                    values[at] = layout.once[at].compute(raw)
            for at in missing:
                memo = layout.once[at]
                if memo.is_kept:
                    if len(memo.known) >= self._capacity:
                        memo.known.clear()
                    memo.known[keys[at]] = values[at]
        ints: list[int] = []
        floats: list[float] = []
        matrices: dict[str, Array] = {}
        for of_ints, of_floats, of_lists in values:
            ints += of_ints
            floats += of_floats
            if of_lists:
                matrices.update(of_lists)
        return ints, floats, matrices

    def _find(
        self, memo: ContextMemo, parsed: SharedValues, day: int | None, values: list[Any], at: int
    ) -> bool:
        """Compute a value without Arrow if possible; return whether it was."""
        if memo.quick is None:
            return False
        try:
            values[at] = memo.quick(parsed, day)
        except UnusualRequestError:
            return False
        return True

    def _row_slots(self, layout: _LookupPlan, keys: list[bytes]) -> Array:
        memo = layout.rows
        slots = list(map(memo.slots.get, keys))
        if None in slots:
            new = list(
                dict.fromkeys(key for key, at in zip(keys, slots, strict=True) if at is None)
            )
            layout.watch(len(keys), len(new))
            decoded = [self._decode(key) for key in new]
            for row in decoded:
                if type(row) is not dict or not layout.shared_set.isdisjoint(row):
                    raise UnusualRequestError("a row overrides the context")
            self._missed += len(new) * len(layout.per_row)
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
            layout.learn(new, decoded, batch, self._user)
            slots = list(map(layout.rows.slots.get, keys))
        else:
            layout.watch(len(keys), 0)
        return np.array(slots, np.int64)


@dataclass
class _LookupPlan:
    """How each feature is looked up, for one set of context columns."""

    shared: tuple[str, ...]
    own: tuple[str, ...]
    once: list[ContextMemo]
    per_row: list[ServedFeature]
    both: list[PairMemo]
    reads_day: bool
    is_usual: bool
    capacity: int
    rows: RowMemo = field(init=False)
    blocks: tuple[ScalarInputs, ScalarInputs] = field(init=False)
    matrices: list[Matrix] = field(init=False)
    _seen: int = 0
    _new: int = 0

    @classmethod
    def of(
        cls,
        features: list[ServedFeature],
        contexts: Mapping[str, ContextMemo],
        names: tuple[str, ...],
        types: Mapping[str, pa.DataType],
        time: str,
        capacity: int,
    ) -> _LookupPlan:
        shared = frozenset(names) & types.keys()
        own = tuple(name for name in types if name not in shared)
        once = [contexts[feature.name] for feature in features if shared.issuperset(feature.reads)]
        per_row = [feature for feature in features if shared.isdisjoint(feature.reads)]
        rest = [
            feature
            for feature in features
            if not (shared.issuperset(feature.reads) or feature in per_row)
        ]
        both = [PairMemo(feature, frozenset(shared), types) for feature in rest]
        reads_day = time in shared and any(
            feature.when == "day" for feature in features if feature not in per_row
        )
        # Rows with their own times are not candidates of one request.
        is_usual = bool(own) and (time not in own)
        return cls(tuple(sorted(shared)), own, once, per_row, both, reads_day, is_usual, capacity)

    def __post_init__(self) -> None:
        self.shared_set = frozenset(self.shared)
        self._once_features = [memo.feature for memo in self.once]
        self.forget()

    def forget(self) -> None:
        """Clear all memos of this layout."""
        self.rows = RowMemo(self.capacity)
        self.blocks = (self._block(np.int32), self._block(np.float32))
        self.matrices = [
            Matrix(name, length, dtype, is_shared=is_shared)
            for part, is_shared in ((self._once_features, True), (self.per_row, False))
            for feature in part
            for name, length, dtype in feature.outputs
            if length
        ]
        for both in self.both:
            both.forget()

    def watch(self, rows: int, new: int) -> None:
        """Count rows and new rows; stop caching if the hit rate is low."""
        self._seen += rows
        self._new += new
        if self._seen >= self.capacity:
            if self._new > (1 - SELDOM) * self._seen:
                self.is_usual = False
                self.forget()
                raise UnusualRequestError("rows that seldom repeat")
            self._seen = self._new = 0

    def learn(
        self, new: list[bytes], decoded: list[Row], batch: pa.RecordBatch, user: UserColumn
    ) -> None:
        """Cache rows.

        Args:
            new: JSON of each row.
            decoded: Decoded rows.
            batch: Row columns, which are not in the context.
            user: Column of the user.
        """
        raw = RawColumns(batch, user)
        inputs: dict[str, Array] = {}
        for feature in self.per_row:
            inputs.update(feature.compute(raw))
        first = len(self.rows.slots)
        for block in self.blocks:
            names = block.names[len(block.names) - block.stored.values.shape[1] :]
            if names:
                block.stored.put(first, np.stack([inputs[name] for name in names], axis=1))
        for matrix in self.matrices:
            if matrix.stored is not None:
                matrix.stored.put(first, inputs[matrix.name])
        for both in self.both:
            both.learn(first, decoded)
        self.rows.add(new)

    def _block(self, dtype: Any) -> ScalarInputs:
        once, per_row = (
            [
                name
                for feature in part
                for name, length, kind in feature.outputs
                if kind is dtype and not length
            ]
            for part in (self._once_features, self.per_row)
        )
        return ScalarInputs(once, per_row, dtype)
