"""Profiles the values of one Arrow column."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.profile.bins import DENSE, HASH_BINS, HOUR_US, Bins, Floats, Ints, number_bins
from nightbid.profile.column import ColumnKind, ColumnProfile
from nightbid.profile.exact import ExactSum
from nightbid.profile.sample import KEY_LIMIT, CountedSample, hash_numbers, hash_texts
from nightbid.schema import KEY, USER
from nightbid.time_parsing import as_time

WHOLE = 2.0**53
"""Largest magnitude up to which all integers are float64 values."""
PROBE = 2048
"""Number of rows to check for whether numbers repeat."""
PLAINER = {pa.float16(): pa.float32(), pa.string_view(): pa.string()}
"""Types with little support in Arrow → types that hold the same values."""


def profile_column(name: str, column: pa.ChunkedArray, label: Ints) -> ColumnProfile:
    """Profile one column.

    Args:
        name: Name of the column; reserved columns that hold hashes are treated as ids.
        column: [rows], any Arrow type.
        label: [rows], 1 where the label is 1, else 0.
    """
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # no chunks, or too many bytes for one chunk
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.nulls(0)
    kind, text = _kind_of(name, array.type)
    rows, nulls = len(array), array.null_count
    null_positives = 0
    if nulls:
        null_positives = int(label[np.asarray(pc.is_null(array))].sum())
    start = ColumnProfile(
        kind=kind,
        types=(text,),
        rows=rows,
        nulls=nulls,
        null_positives=null_positives,
        values=0,
        nan=0,
        infinite=0,
        blank=0,
        minimum=None,
        maximum=None,
        total=ExactSum(),
        squares=ExactSum(),
        bins=Bins.empty(),
        sample=CountedSample.empty(KEY_LIMIT if name == KEY else 1024),
    )
    if kind in ("other", "empty") or rows == nulls:
        return start
    if _is_list(array.type):
        # flatten() skips the items of null lists, so their labels are skipped too.
        present = label[np.asarray(pc.is_valid(array))] if nulls else label
        filled = array.drop_null() if nulls else array
        sizes = np.asarray(pc.list_value_length(filled))
        array, label = filled.flatten(), np.repeat(present, sizes)
    if array.type in PLAINER:
        array = array.cast(PLAINER[array.type])
    if array.null_count:
        label = label[np.asarray(pc.is_valid(array))]
        array = array.drop_null()
    if not len(array):  # only empty lists
        return start
    if kind == "time":
        return _with_times(start, array, label)
    if kind == "number":
        return _with_numbers(start, *_grouped(array, label))
    return _with_names(start, *_grouped(array, label))


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _kind_of(name: str, kind: pa.DataType) -> tuple[ColumnKind, str]:
    if _is_list(kind):
        inner, text = _kind_of(name, kind.value_type)
        is_flat = inner != "time" and not _is_list(kind.value_type)
        return (inner if is_flat else "other"), f"list<{text}>"
    if pa.types.is_dictionary(kind):
        return _kind_of(name, kind.value_type)
    text = str(kind)
    if pa.types.is_null(kind):
        return "empty", text
    if name in (KEY, USER) and pa.types.is_integer(kind):
        return "id", text
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or str(kind) == "string_view":
        return "text", "string"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "time", text
    numeric = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
    if any(test(kind) for test in numeric):
        return "number", text
    return "other", text


def _with_times(start: ColumnProfile, array: pa.Array, label: Ints) -> ColumnProfile:
    micros = np.asarray(as_time(array).cast(pa.int64()))
    hours = micros // HOUR_US
    first = int(hours.min())
    # Days have few hours: counting by offset is faster than sorting all rows.
    if int(hours.max()) - first < 1_000_000:
        used, counts, positives = _counted(hours - first, label)
        bins = Bins(used + first, counts, positives)
    else:
        bins = Bins.of(hours, np.ones(len(hours), np.int64), label)
    return replace(
        start,
        values=len(micros),
        minimum=int(micros.min()),
        maximum=int(micros.max()),
        bins=bins,
    )


def _grouped(array: pa.Array, label: Ints) -> tuple[pa.Array, Ints, Ints]:
    """Group rows by value: values, rows of each, rows of each with label 1.

    Numbers that rarely repeat are returned as they are with one row each, since hashing them gains
    nothing. The choice only affects speed.
    """
    kind = array.type
    if pa.types.is_signed_integer(kind):
        numbers = np.asarray(array)
        lowest = int(numbers.min())
        if int(numbers.max()) - lowest < DENSE * len(numbers):
            place = numbers.astype(np.int64) - lowest
            used, counts, marked = _counted(place, label)
            return pa.array(used + lowest), counts, marked
    if pa.types.is_floating(kind) or pa.types.is_integer(kind):
        few = array.slice(0, PROBE)
        if 2 * len(few.unique()) > len(few):
            return array, np.ones(len(array), np.int64), label
    if not pa.types.is_dictionary(kind):
        array = array.dictionary_encode()
    used, counts, marked = _counted(np.asarray(array.indices).astype(np.int64), label)
    return array.dictionary.take(pa.array(used)), counts, marked


def _counted(place: Ints, label: Ints) -> tuple[Ints, Ints, Ints]:
    """Count rows by a small number: numbers that occur, rows of each, rows with label 1."""
    both = np.bincount(2 * place + label)
    both = np.append(both, np.zeros(len(both) % 2, np.int64)).reshape(-1, 2)
    counts = both[:, 0] + both[:, 1]
    used = np.flatnonzero(counts)
    return used, counts[used], both[used, 1]


def _with_numbers(
    start: ColumnProfile, grouped: pa.Array, counts: Ints, positives: Ints
) -> ColumnProfile:
    if pa.types.is_boolean(grouped.type):
        grouped = grouped.cast(pa.int8())
    values: Floats = np.asarray(grouped.cast(pa.float64(), safe=False))
    if pa.types.is_integer(grouped.type) and (np.abs(values) > WHOLE).any():
        return _with_large_integers(start, np.asarray(grouped), values, counts, positives)
    missing = np.isnan(values)
    endless = np.isinf(values)
    nan, infinite = int(counts[missing].sum()), int(counts[endless].sum())
    if nan or infinite:
        finite = ~(missing | endless)
        values, counts, positives = values[finite], counts[finite], positives[finite]
    if len(values) == 0:
        return replace(start, nan=nan, infinite=infinite)
    with np.errstate(over="ignore"):
        squared = np.minimum(values * values, np.finfo(np.float64).max)
    return replace(
        start,
        values=int(counts.sum()),
        nan=nan,
        infinite=infinite,
        minimum=float(values.min()),
        maximum=float(values.max()),
        total=ExactSum.of(values, counts),
        squares=ExactSum.of(squared, counts),
        bins=Bins.of(number_bins(values), counts, positives),
        sample=CountedSample.of(values + 0.0, hash_numbers(values), counts, positives),
    )


def _with_large_integers(
    start: ColumnProfile, exact: Ints, values: Floats, counts: Ints, positives: Ints
) -> ColumnProfile:
    """Profile integers that float64 cannot all represent; their sample keeps them exactly."""
    large = np.abs(values) > WHOLE
    hashes = hash_numbers(values)
    hashes[large] = hash_numbers(exact[large].astype(np.uint64).view(np.int64))
    precise = (values + 0.0).astype(object)
    precise[large] = exact[large].tolist()
    return replace(
        start,
        values=int(counts.sum()),
        minimum=float(values.min()),
        maximum=float(values.max()),
        total=ExactSum.of(values, counts),
        squares=ExactSum.of(values * values, counts),
        bins=Bins.of(number_bins(values), counts, positives),
        sample=CountedSample.of(precise, hashes, counts, positives),
    )


def _with_names(
    start: ColumnProfile, grouped: pa.Array, counts: Ints, positives: Ints
) -> ColumnProfile:
    blank = 0
    if start.kind == "id":
        values = np.asarray(grouped.cast(pa.int64()))
        hashes = hash_numbers(values)
    else:
        values = np.asarray(grouped.to_pylist(), dtype=object)
        hashes = hash_texts(values)
        blank = int(counts[values == ""].sum())
    bins = (hashes // np.uint64(2**64 // HASH_BINS)).astype(np.int64)
    return replace(
        start,
        values=int(counts.sum()),
        blank=blank,
        bins=Bins.of(bins, counts, positives),
        sample=CountedSample.of(
            values,
            hashes,
            counts,
            positives,
            limit=start.sample.limit,
            keep_values=start.kind == "text",
        ),
    )
