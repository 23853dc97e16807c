"""Relations between entities and their attributes: a user's age, an ad's advertiser.

A stale or shuffled join leaves every single column unchanged and breaks only these relations. For
the entities with the smallest hashes (a sample that is the same on every day) the smallest and the
largest hash of each column's values are kept: if both are equal, the entity had a single value.
Minima and maxima merge exactly, in any order.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nightbid.profile.sample import Hashes, hash_numbers, hash_texts
from nightbid.schema import RESERVED

LIMIT = 256
NOTHING = (2**32 - 1, 0)
"""Smallest and largest hash if there is no value."""
HashRanges = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Attributes:
    """Sampled attribute values of one kind of entity, such as users."""

    entities: Hashes = field(default_factory=lambda: np.zeros(0, np.uint64))
    """[entities], hashes of the entities, ascending."""
    columns: Mapping[str, HashRanges] = field(default_factory=dict)
    """Column → [2, entities], smallest and largest hash of each entity's values."""

    @classmethod
    def of(cls, table: pa.Table, name: str, limit: int = LIMIT) -> Attributes:
        """Sample the attributes of entities in a table.

        Args:
            table: Table with any columns; lists, times and reserved columns are no attributes.
            name: Column that identifies the entity; if it is missing, the sample is empty.
            limit: Maximum number of entities to keep.
        """
        if name not in table.column_names or not len(table):
            return cls()
        codes, hashes = _hashed(table[name])
        chosen = np.argsort(hashes, kind="stable")[:limit]
        place = np.full(len(hashes) + 1, -1)
        place[chosen] = np.arange(len(chosen))
        row = np.flatnonzero(place[codes] >= 0)
        owner = place[codes[row]]
        part = table.take(pa.array(row))
        columns = {}
        for other in sorted(part.column_names):
            if other == name or other in RESERVED or not _is_plain(part[other].type):
                continue
            value_codes, value_hashes = _hashed(part[other])
            # A null is no value, since an attribute may be known in some rows only.
            known = value_codes >= 0
            short = (value_hashes >> np.uint64(32)).astype(np.uint32)[value_codes[known]]
            both = _nothing(len(chosen))
            np.minimum.at(both[0], owner[known], short)
            np.maximum.at(both[1], owner[known], short)
            columns[other] = both
        return cls(hashes[chosen], columns)

    def merge(self, other: Attributes, limit: int = LIMIT) -> Attributes:
        """Merge with the sample of other rows."""
        entities = np.union1d(self.entities, other.entities)[:limit]
        ranges, other_ranges = self._on(entities), other._on(entities)
        nothing = _nothing(len(entities))
        columns = {}
        for name in sorted({*ranges, *other_ranges}):
            left, right = ranges.get(name, nothing), other_ranges.get(name, nothing)
            columns[name] = np.stack([np.minimum(left[0], right[0]), np.maximum(left[1], right[1])])
        return Attributes(entities, columns)

    def constant(self, name: str) -> float:
        """Share of entities with a single value of a column, among those with any."""
        if name not in self.columns:
            return 0.0
        low, high = self.columns[name]
        known = low <= high
        return float((low == high)[known].mean()) if known.any() else 0.0

    def agreement(self, other: Attributes, name: str) -> tuple[float, int] | None:
        """Compare a column with that of another day.

        Returns:
            Share of the common entities that have one and the same value in both, and the number of
            common entities; None if there are none.
        """
        _, places, other_places = np.intersect1d(
            self.entities, other.entities, assume_unique=True, return_indices=True
        )
        if name not in self.columns or name not in other.columns:
            return None
        left, right = self.columns[name][:, places], other.columns[name][:, other_places]
        known = (left[0] <= left[1]) & (right[0] <= right[1])
        if not known.any():
            return None
        same = (left[0] == left[1]) & (right[0] == right[1]) & (left[0] == right[0])
        return float(same[known].mean()), int(known.sum())

    def _on(self, entities: Hashes) -> dict[str, HashRanges]:
        """Rearrange for a superset or a subset of these entities."""
        _, source, target = np.intersect1d(
            self.entities, entities, assume_unique=True, return_indices=True
        )
        spread = {}
        for name, values in self.columns.items():
            spread[name] = _nothing(len(entities))
            spread[name][:, target] = values[:, source]
        return spread

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; equal samples give equal values."""
        return {
            "entities": _text(self.entities.astype("<u8")),
            "columns": {name: _text(hashes.astype("<u4")) for name, hashes in self.columns.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Attributes:
        """Inverse of `to_json`."""
        entities = np.frombuffer(base64.b64decode(value["entities"]), "<u8").astype(np.uint64)
        columns = {
            name: np.frombuffer(base64.b64decode(text), "<u4").astype(np.uint32).reshape(2, -1)
            for name, text in sorted(value["columns"].items())
        }
        return cls(entities, columns)


def _hashed(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], Hashes]:
    """Code of each row (-1 for null) and hash of each code's value."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    codes = np.asarray(array.indices.fill_null(-1), np.int64)
    values = array.dictionary
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    if _is_text(values.type):
        return codes, hash_texts(np.asarray(values.to_pylist(), dtype=object))
    if pa.types.is_date32(values.type):
        values = values.cast(pa.int32())
    if pa.types.is_integer(values.type) or pa.types.is_timestamp(values.type):
        # As integers, since neighboring ids beyond 2^53 are the same float.
        return codes, hash_numbers(np.asarray(values.cast(pa.int64(), safe=False)))
    return codes, hash_numbers(np.asarray(values.cast(pa.float64(), safe=False)))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_plain(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    return _is_text(kind) or bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    )


def _nothing(size: int) -> HashRanges:
    return np.repeat(np.array(NOTHING, np.uint32)[:, None], size, axis=1)


def _text(values: npt.NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
