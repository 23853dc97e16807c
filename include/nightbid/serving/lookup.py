"""Convert the raw rows of a request to graph inputs, and cache the results.

A server sees the same ads, sites and categories all day. Every feature is a function of its own
source columns only, so its inputs for a value stay valid until the next bundle: a memo per feature
maps values to model inputs. Values that are not in a memo go through the same transform as in
training, so the two cannot differ; the export verifies this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nightbid.column_parsing import whole
from nightbid.features.fitted import FittedFeatures
from nightbid.features.transforms.transform import Moment, Transform
from nightbid.features.values import RawColumns, days_of, moments_of
from nightbid.models.layout import column_values, weight_column
from nightbid.time_parsing import as_time

CAPACITY = 1 << 17
"""Maximum number of values cached per feature; a full memo is cleared."""

BATCH = 16384
"""Maximum number of rows scored at once."""

Array = npt.NDArray[Any]
ArrowRows: TypeAlias = Any
"""An Arrow table or record batch."""


@dataclass(frozen=True)
class ServedFeature:
    """A feature with inputs that are known at serving."""

    name: str
    transform: Transform[Any]
    sources: tuple[str, ...]
    """Raw columns that the feature is a function of."""
    when: Moment | None
    """Precision of the row's time that it also reads, such as the day; None if it reads no time."""
    reads: tuple[str, ...]
    """All raw columns that it reads: the sources, and the time column if needed."""
    outputs: tuple[tuple[str, int, type[np.float32] | type[np.int32]], ...]
    """(name, length, type) of each graph input; length 0 means one number per row."""

    def compute(self, raw: RawColumns | ArrowRows) -> dict[str, Array]:
        """Apply the transform: graph input → [rows] or [rows, length]."""
        if not isinstance(raw, RawColumns):
            raw = RawColumns(raw, self.transform.context.user)
        columns = self.transform.apply(raw)
        inputs = {}
        for name, length, dtype in self.outputs:
            values = column_values(columns[name], dtype)
            inputs[name] = values.reshape(-1, length) if length else values
        return inputs


def served_features(fitted: FittedFeatures) -> list[ServedFeature]:
    """List the features that a request needs, in order."""
    time, features = fitted.definition.time, []
    for name, transform in fitted.transforms.items():
        served = [model_input for model_input in transform.inputs if not model_input.training_only]
        if not served:
            continue  # training-only values are not known at serving
        feature = fitted.definition.features[name]
        when = transform.reads_time
        sources = tuple(dict.fromkeys(feature.served(name)))
        reads = (*sources, *([time] if when and time not in sources else []))
        outputs: list[tuple[str, int, type[np.float32] | type[np.int32]]] = []
        for model_input in served:
            dtype = np.float32 if model_input.kind == "float" else np.int32
            outputs.append((model_input.name, model_input.length, dtype))
            if model_input.kind == "bag":
                outputs.append((weight_column(model_input.name), model_input.length, np.float32))
        features.append(ServedFeature(name, transform, sources, when, reads, tuple(outputs)))
    return features


class Lookup:
    """All served features with their memos. Not thread-safe."""

    def __init__(self, fitted: FittedFeatures) -> None:
        self._time, self._zone = fitted.definition.time, fitted.definition.time_zone
        self._features = [Memo(feature) for feature in served_features(fitted)]

    @property
    def columns(self) -> list[str]:
        """All raw columns that the features read, in the order of the features."""
        return list(dict.fromkeys(name for memo in self._features for name in memo.reads))

    def inputs(self, raw: ArrowRows, shared: ArrowRows | None = None) -> dict[str, Array]:
        """Look up raw rows.

        Args:
            raw: Source columns; those of training-only features may be missing.
            shared: One row with the columns that all rows have in common. Features of these
                columns only are looked up once instead of once per row.

        Returns:
            Graph input → [rows] or [rows, length].

        Raises:
            MissingDataError: A source column is missing.
        """
        request = RequestColumns(raw, self._time, shared, zone=self._zone)
        once = RequestColumns(shared, self._time, zone=self._zone) if shared is not None else None
        feed: dict[str, Array] = {}
        for memo in self._features:
            if once is not None and once.columns.keys() >= memo.needs:
                for name, values in memo.look_up(once).items():
                    feed[name] = values.repeat(len(raw), axis=0)
            else:
                feed.update(memo.look_up(request))
        return feed

    @property
    def missed(self) -> int:
        """Number of values computed so far because no memo contained them."""
        return sum(memo.missed for memo in self._features)


class RequestColumns:
    """Raw rows plus one row of shared values; each column is read once for all features."""

    def __init__(
        self, raw: ArrowRows, time: str, shared: ArrowRows | None = None, *, zone: str = "UTC"
    ) -> None:
        self.columns = dict(zip(raw.column_names, raw.columns, strict=True))
        if shared is not None:
            self.columns.update(zip(shared.column_names, shared.columns, strict=True))
        self._raw = raw
        self._shared: frozenset[str] = frozenset(shared.column_names if shared is not None else ())
        self._time, self._zone = time, zone
        self._keys: dict[str, list[Any] | None] = {}
        self._times: dict[str, list[Any]] = {}

    def keys(self, name: str, feature: str) -> list[Any] | None:
        """Return a column's values as dictionary keys; None if they cannot be cached."""
        if name not in self._keys:
            if name not in self.columns:
                RawColumns(self._raw).column(name, feature)  # raises an error that names the column
            try:
                self._keys[name] = self._each_row(name, _keys(self._column(name)))
            except UnicodeDecodeError:  # Arrow does not validate strings, Python does
                self._keys[name] = None
        return self._keys[name]

    def times(self, when: Moment, feature: str) -> list[Any]:
        """Return the day or the microsecond of each row."""
        if when not in self._times:
            if self._time not in self.columns:
                RawColumns(self._raw).time(self._time, feature)  # raises
            time = as_time(self._column(self._time), self._zone)
            times = (days_of(time, self._zone) if when == "day" else moments_of(time)).tolist()
            self._times[when] = self._each_row(self._time, times) or []
        return self._times[when]

    def rows(self, names: list[str], at: list[int] | None = None) -> pa.RecordBatch:
        """Select columns for some rows, or for all."""
        size = len(self._raw) if at is None else len(at)
        places = None if at is None else pa.array(at, pa.int64())
        columns = {}
        for name in names:
            if name not in self.columns:
                continue  # the transform that needs it raises the error
            column = self._column(name)
            if name in self._shared:
                column = column.take(pa.array(np.zeros(size, np.int64)))
            elif places is not None and at is not None:
                column = column.slice(at[0], 1) if size == 1 else column.take(places)
            columns[name] = column
        return pa.record_batch(columns)

    def _column(self, name: str) -> pa.Array:
        column = self.columns[name]
        if isinstance(column, pa.ChunkedArray):
            column = self.columns[name] = whole(column)
        return column

    def _each_row(self, name: str, values: list[Any] | None) -> list[Any] | None:
        return values * len(self._raw) if values and name in self._shared else values


class Memo:
    """Cache of one feature: values and the inputs computed from them."""

    def __init__(self, feature: ServedFeature) -> None:
        self._feature = feature
        self.reads = list(feature.reads)
        self.needs = frozenset(feature.reads)
        self.missed = 0
        self._forget(())

    def _forget(self, types: tuple[pa.DataType, ...]) -> None:
        self._types = types
        self._slots: dict[Any, int] = {}
        self._stored = {
            name: np.zeros((256, length) if length else 256, dtype)
            for name, length, dtype in self._feature.outputs
        }

    def look_up(self, request: RequestColumns) -> dict[str, Array]:
        """Look up the feature's inputs for a request, computing those not cached."""
        parts = [request.keys(source, self._feature.name) for source in self._feature.sources]
        if any(part is None for part in parts):
            return self._compute(request.rows(self.reads))
        if self._feature.when:
            parts.append(request.times(self._feature.when, self._feature.name))
        keys = parts[0] if len(parts) == 1 else list(zip(*parts, strict=True))
        assert keys is not None
        types = tuple(request.columns[name].type for name in self.reads)
        if types != self._types or len(self._slots) + len(keys) > CAPACITY:
            # Equal keys of different types (1 ms, 1 µs) are different values.
            self._forget(types)
        slots = list(map(self._slots.get, keys))
        if None in slots:
            self._learn(keys, slots, request)
            slots = list(map(self._slots.get, keys))
        at = np.array(slots, np.int64)
        return {name: stored.take(at, axis=0) for name, stored in self._stored.items()}

    def _learn(self, keys: list[Any], slots: list[int | None], request: RequestColumns) -> None:
        new = {
            key: row for row, (key, at) in enumerate(zip(keys, slots, strict=True)) if at is None
        }
        self.missed += len(new)
        rows = request.rows(self.reads, list(new.values()))
        first = len(self._slots)
        for name, values in self._compute(rows).items():
            stored = self._stored[name]
            if first + len(new) > len(stored):
                grown = np.zeros((2 * (first + len(new)), *stored.shape[1:]), stored.dtype)
                grown[: len(stored)] = stored
                self._stored[name] = stored = grown
            stored[first : first + len(new)] = values
        for offset, key in enumerate(new):
            self._slots[key] = first + offset

    def _compute(self, raw: ArrowRows) -> dict[str, Array]:
        return self._feature.compute(raw)


def _keys(column: pa.Array) -> list[Any] | None:
    kind = column.type
    if pa.types.is_floating(kind):
        return None  # floats rarely repeat
    if pa.types.is_timestamp(kind):
        column = column.cast(pa.int64())
    if pa.types.is_nested(kind):
        return [None if value is None else tuple(value) for value in column.to_pylist()]
    if pa.types.is_integer(column.type) and not column.null_count:
        keys: list[Any] = whole(column).to_numpy().tolist()
        return keys
    return column.to_pylist()  # type: ignore[no-any-return]
