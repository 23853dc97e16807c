"""From raw columns to plain values: numbers, list items, keys, days.

Learning and transforming both read rows through these functions, so a feature has one definition.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.column_parsing import (
    Floats,
    Hashes,
    Unreadable,
    as_time,
    encode,
    joint_hashes,
    local_time,
    numbers,
    time_of_zone,
    unreadable,
    whole,
)
from nightbid.config.features import (
    Age,
    Bag,
    Buckets,
    DayOfWeek,
    Feature,
    Function,
    Hour,
    Identity,
    Numeric,
    QuantileBuckets,
)
from nightbid.config.features import Sequence as SequenceFeature
from nightbid.errors import DataError, MissingDataError
from nightbid.features.functions import named_function

DAY_US = 86_400_000_000
Int32s = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]
Floats32 = npt.NDArray[np.float32]


class RawColumns:
    """Raw rows, each column joined and encoded at most once however many features read it."""

    def __init__(self, table: pa.Table | pa.RecordBatch) -> None:
        self._places = {name: place for place, name in enumerate(table.column_names)}
        self._table = table
        self._columns: dict[str, pa.Array] = {}
        self._codes: dict[str, tuple[Int32s, pa.Array]] = {}

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def column(self, name: str, feature: str) -> pa.Array:
        """Fetch a source column of a feature, its chunks joined.

        Raises:
            MissingDataError: the rows do not have it.
        """
        found = self._columns.get(name)
        if found is None:
            if name not in self._places:
                close = difflib.get_close_matches(name, self._places, n=1)
                raise MissingDataError(
                    f"column {name!r} is missing",
                    where=f"features.{feature}",
                    hint=f"did you mean {close[0]!r}?"
                    if close
                    else f"the rows have {', '.join(list(self._places)[:12])}",
                )
            found = self._columns[name] = whole(self._table.column(self._places[name]))
        return found

    def encoded(self, name: str, feature: str) -> tuple[Int32s, pa.Array]:
        """Fetch a column as codes and tokens, see `nightbid.column_parsing.encode`."""
        if name not in self._codes:
            self._codes[name] = encode(self.column(name, feature))
        return self._codes[name]

    def time(self, name: str, feature: str, zone: str = "UTC") -> pa.Array:
        """Fetch a column as timestamp[us, UTC]; times that name no zone are of `zone`."""
        return as_time(self.column(name, feature), zone)


@contextmanager
def naming(feature: str) -> Iterator[None]:
    """Say which feature met an error in the data, unless that is said."""
    try:
        yield
    except DataError as error:
        if error.where:
            raise
        raise type(error)(error.what, where=f"features.{feature}", hint=error.hint) from error


def days_of(time: pa.Array, zone: str = "UTC") -> Int32s:
    """Day of each timestamp[us, UTC] by a zone's clock, from 1970; int32 [rows]; 0 for null."""
    return (moments_of(local_time(time, zone)) // DAY_US).astype(np.int32)


def day_starts(time: pa.Array, zone: str = "UTC") -> Ints:
    """When the day of each timestamp[us, UTC] began by a zone's clock; int64 [rows], as moments."""
    local = moments_of(local_time(time, zone)) // DAY_US * DAY_US
    if zone == "UTC":
        return local
    return moments_of(time_of_zone(pa.array(local).cast(pa.timestamp("us", "UTC")), zone))


def moments_of(time: pa.Array) -> Ints:
    """Microseconds since 1970 of each timestamp[us, UTC]; int64 [rows]; 0 where it is null."""
    if not time.null_count:
        return np.asarray(time.view(pa.int64()))
    return np.asarray(pc.fill_null(time.cast(pa.int64()), 0))


def numeric_values(name: str, feature: Numeric | Age | Function, raw: RawColumns) -> Floats:
    """Compute a number per row, before scaling; float64 [rows], NaN is missing."""
    if isinstance(feature, Age):
        later, since = (raw.column(each, name) for each in feature.sources(name))
        days = (_micros(as_time(later)) - _micros(as_time(since))) / DAY_US
        return np.log1p(np.maximum(days, 0.0))
    if isinstance(feature, Function):
        return numbers(called(name, feature, raw))
    return clipped_log(feature, numbers(raw.column(feature.column or name, name)))


def clipped_log(feature: Numeric, values: Floats) -> Floats:
    """Clip numbers and take their logarithm, where the feature says so."""
    if feature.clip:
        values = np.clip(values, *feature.clip)
    if feature.log1p:
        # In float64: log1p in float32 differs between libraries.
        values = np.sign(values) * np.log1p(np.abs(values))
    return values


def unreadable_values(features: Mapping[str, Feature], rows: pa.Table) -> dict[str, Unreadable]:
    """Count the values that features read as numbers or times and that are none.

    Args:
        features: by name.
        rows: their raw columns.

    Returns:
        One count for each feature that reads numbers or times.
    """
    raw, found = RawColumns(rows), dict[str, Unreadable]()
    for name, feature in features.items():
        match feature:
            case Numeric() | QuantileBuckets() | Buckets() | Identity():
                kind: Literal["number", "time"] = "number"
            case Age() | Hour() | DayOfWeek():
                kind = "time"
            case _:
                continue
        found[name] = Unreadable()
        for column in feature.sources(name):
            with naming(name):
                found[name] += unreadable(raw.column(column, name), kind)
    return found


def _micros(time: pa.Array) -> Floats:
    # Floats do not overflow; they are exact for 285 years before and after 1970.
    return np.asarray(pc.fill_null(time.cast(pa.int64()).cast(pa.float64(), safe=False), np.nan))


def called(name: str, feature: Function, raw: RawColumns) -> pa.Array:
    """Call a registered function on its columns; the result is [rows].

    Raises:
        MissingDataError: it gave another number of values than there are rows.
    """
    function = named_function(feature.function)
    result = whole(function(*(raw.column(each, name) for each in feature.columns)))
    if len(result) != len(raw):
        raise MissingDataError(
            f"function {feature.function!r} gave {len(result)} values for {len(raw)} rows",
            where=f"features.{name}",
            hint="a feature function returns one value per row, null where there is none",
        )
    return result


def keys_of(name: str, columns: Sequence[str], raw: RawColumns) -> Hashes:
    """Hash the values of several columns together; uint64 [rows]."""
    return joint_hashes([raw.encoded(each, name) for each in columns])


@dataclass(frozen=True)
class Items:
    """The items of a list column, one after the other."""

    flat: pa.Array
    """[items], any type."""
    rows: Ints
    """[items]: the row that each belongs to."""
    places: Ints
    """[items]: its place in its row, from 0."""
    counts: Ints
    """[rows]: items per row."""

    @classmethod
    def of(cls, lists: pa.Array) -> Items:
        """Unroll a list array; a null list is empty."""
        counts = np.asarray(pc.fill_null(pc.list_value_length(lists), 0)).astype(np.int64)
        flat = whole(lists.drop_null().flatten() if lists.null_count else lists.flatten())
        rows = np.repeat(np.arange(len(counts)), counts)
        starts = np.cumsum(counts) - counts
        return cls(flat, rows, np.arange(len(rows)) - starts[rows], counts)


def items_of(name: str, feature: Bag | SequenceFeature, raw: RawColumns, source: str = "") -> Items:
    """Unroll a list column, or a string of separated values; any other value is one item.

    Args:
        name: the feature's.
        feature: its definition.
        raw: rows.
        source: another column of the feature than its first.
    """
    column = raw.column(source or feature.column or name, name)
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        if pa.types.is_fixed_size_list(kind):
            column = column.cast(pa.list_(kind.value_type))
        return Items.of(column)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        parts = pc.split_pattern(column, feature.separator)
        # "" splits into one empty item, which is missing anyway.
        return Items.of(parts)
    known = np.asarray(pc.is_valid(column))
    counts = known.astype(np.int64)
    rows = np.flatnonzero(known)
    return Items(column.drop_null(), rows, np.zeros(len(rows), np.int64), counts)


def laid_out(values: npt.NDArray[np.int32], items: Items, length: int, last: bool) -> Int32s:
    """Put the ids of items into a matrix; int32 [rows, length], 0 where there is none.

    Args:
        values: [items].
        items: where each belongs.
        length: items kept per row.
        last: keep the last ones of a row, else the first ones.
    """
    places = items.places
    if last:
        places = places - np.maximum(items.counts - length, 0)[items.rows]
    kept = (places >= 0) & (places < length)
    matrix = np.zeros((len(items.counts), length), np.int32)
    matrix[items.rows[kept], places[kept]] = values[kept]
    return matrix


def as_float32(values: Floats) -> Floats32:
    """Round to float32; what is too large for it becomes the largest, never infinite."""
    limit = float(np.finfo(np.float32).max)
    return np.clip(values, -limit, limit).astype(np.float32)
