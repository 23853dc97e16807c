"""Converts raw columns to plain values: numbers, list items, keys, days.

Fitting and transforming both read rows through these functions, so a feature has one definition.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.anonymous import NO_USER_COLUMN, Bools, UserColumn
from nightbid.column_parsing import Floats, Hashes, encode, joint_hashes, whole
from nightbid.config.features import Numeric
from nightbid.errors import DataError, MissingDataError
from nightbid.time_parsing import as_time, local_time, time_of_zone

DAY_US = 86_400_000_000
LARGEST32 = float(np.finfo(np.float32).max)
Int32s = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]
Floats32 = npt.NDArray[np.float32]


class RawColumns:
    """Raw rows; each column is concatenated and encoded once, however many features read it.

    Args:
        table: Rows.
        user: User column, which is null where a row has no user.
    """

    def __init__(self, table: pa.Table | pa.RecordBatch, user: UserColumn = NO_USER_COLUMN) -> None:
        self._user = user
        self._places = {name: place for place, name in enumerate(table.column_names)}
        self._table = table
        self._columns: dict[str, pa.Array] = {}
        self._codes: dict[str, tuple[Int32s, pa.Array]] = {}

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def column(self, name: str, feature: str) -> pa.Array:
        """Return a feature's source column as one chunk.

        Raises:
            MissingDataError: The rows do not have the column.
        """
        values = self._columns.get(name)
        if values is None:
            if name not in self._places:
                close = difflib.get_close_matches(name, self._places, n=1)
                raise MissingDataError(
                    f"column {name!r} is missing",
                    where=f"features.{feature}",
                    hint=f"did you mean {close[0]!r}?"
                    if close
                    else f"the rows have {', '.join(list(self._places)[:12])}",
                )
            values = whole(self._table.column(self._places[name]))
            if name == self._user.name:
                values = self._user.with_nulls(values)
            self._columns[name] = values
        return values

    def with_user(self, columns: Sequence[str], feature: str) -> Bools | None:
        """Return which rows have a user, bool [rows]; None if all do, or no column is the user."""
        if self._user.name not in columns:
            return None
        known = self.encoded(self._user.name, feature)[0] >= 0
        return None if known.all() else known

    def encoded(self, name: str, feature: str) -> tuple[Int32s, pa.Array]:
        """Return a column as codes and tokens, see `nightbid.column_parsing.encode`."""
        if name not in self._codes:
            self._codes[name] = encode(self.column(name, feature))
        return self._codes[name]

    def time(self, name: str, feature: str, zone: str = "UTC") -> pa.Array:
        """Return a column as timestamp[us, UTC]; times that state no zone are in `zone`."""
        return as_time(self.column(name, feature), zone)


@contextmanager
def naming(feature: str) -> Iterator[None]:
    """Add the feature's name to data errors that do not state a place."""
    try:
        yield
    except DataError as error:
        if error.where:
            raise
        raise type(error)(error.what, where=f"features.{feature}", hint=error.hint) from error


def days_of(time: pa.Array, zone: str = "UTC") -> Int32s:
    """Day of each timestamp[us, UTC] in a zone, as int32 [rows] since 1970; 0 if null."""
    return (moments_of(local_time(time, zone)) // DAY_US).astype(np.int32)


def day_starts(time: pa.Array, zone: str = "UTC") -> Ints:
    """Start of the day of each timestamp[us, UTC] in a zone; int64 [rows], as `moments_of`."""
    local = moments_of(local_time(time, zone)) // DAY_US * DAY_US
    if zone == "UTC":
        return local
    return moments_of(time_of_zone(pa.array(local).cast(pa.timestamp("us", "UTC")), zone))


def moments_of(time: pa.Array) -> Ints:
    """Microseconds since 1970 of each timestamp[us, UTC]; int64 [rows], 0 if null."""
    if not time.null_count:
        return np.asarray(time.view(pa.int64()))
    return np.asarray(pc.fill_null(time.cast(pa.int64()), 0))


def clipped_log(feature: Numeric, values: Floats) -> Floats:
    """Clip numbers and take their logarithm, if the settings ask for it."""
    if feature.clip:
        values = np.clip(values, *feature.clip)
    if feature.log1p:
        # In float64, since log1p in float32 differs between libraries.
        values = np.sign(values) * np.log1p(np.abs(values))
    return values


def keys_of(name: str, columns: Sequence[str], raw: RawColumns) -> Hashes:
    """Hash the values of several columns together; uint64 [rows]."""
    return joint_hashes([raw.encoded(column, name) for column in columns])


@dataclass(frozen=True)
class Items:
    """Items of a list column, concatenated."""

    flat: pa.Array
    """[items], the items, of any type."""
    rows: Ints
    """[items], row of each item."""
    places: Ints
    """[items], position of each item in its row, from 0."""
    counts: Ints
    """[rows], number of items."""

    @classmethod
    def of(cls, lists: pa.Array) -> Items:
        """Flatten a list array; a null list is empty."""
        counts = np.asarray(pc.fill_null(pc.list_value_length(lists), 0)).astype(np.int64)
        flat = whole(lists.drop_null().flatten() if lists.null_count else lists.flatten())
        rows = np.repeat(np.arange(len(counts)), counts)
        starts = np.cumsum(counts) - counts
        return cls(flat, rows, np.arange(len(rows)) - starts[rows], counts)


def split_items(column: pa.Array, separator: str) -> Items:
    """Flatten a list column, or a string of separated values; any other value is one item."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        if pa.types.is_fixed_size_list(kind):
            column = column.cast(pa.list_(kind.value_type))
        return Items.of(column)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        parts = pc.split_pattern(column, separator)
        # "" splits into one empty item, which is missing anyway.
        return Items.of(parts)
    known = np.asarray(pc.is_valid(column))
    counts = known.astype(np.int64)
    rows = np.flatnonzero(known)
    return Items(column.drop_null(), rows, np.zeros(len(rows), np.int64), counts)


def laid_out(values: npt.NDArray[np.int32], items: Items, length: int, last: bool) -> Int32s:
    """Arrange the ids of items as a matrix; int32 [rows, length], 0 where there is no item.

    Args:
        values: Ids of the items, int32 [items].
        items: Rows and positions of the items.
        length: Maximum number of items per row.
        last: Keep the last items of a row instead of the first.
    """
    places = items.places
    if last:
        places = places - np.maximum(items.counts - length, 0)[items.rows]
    is_kept = (places >= 0) & (places < length)
    matrix = np.zeros((len(items.counts), length), np.int32)
    matrix[items.rows[is_kept], places[is_kept]] = values[is_kept]
    return matrix


def as_float32(values: Floats) -> Floats32:
    """Round to float32; values beyond its range become the largest float32, never infinite."""
    return np.minimum(np.maximum(values, -LARGEST32), LARGEST32).astype(np.float32)
