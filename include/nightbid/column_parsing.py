"""Reading columns of any type as what they mean: tokens, hashes, numbers, times.

Logs spell the same value in many ways; every reader of them (sampling, features, serving) goes
through these functions, so that a value means the same everywhere. Work is done once per distinct
value, never per row.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.errors import DataError

MICROSECOND = pa.timestamp("us", "UTC")
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
_WHOLE = 2.0**53
"""Floats below it that are whole print as integers: 6 and 6.0 are the same token."""


def whole(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Join the chunks of a column."""
    if isinstance(column, pa.ChunkedArray):
        joined = column.combine_chunks()
        if isinstance(joined, pa.ChunkedArray):
            joined = pa.concat_arrays(joined.chunks) if joined.num_chunks else pa.array(
                [], column.type)  # fmt: skip
        return joined
    return column


def encode(column: pa.ChunkedArray | pa.Array) -> tuple[npt.NDArray[np.int32], pa.Array]:
    """Split a column into codes and the tokens they stand for.

    Null, NaN and the empty string are missing: code -1. Bytes that are no UTF-8 are replaced by
    their hexadecimal digits.

    Returns:
        int32 [rows] codes, and the tokens: strings, distinct unless a given dictionary's are not.

    Raises:
        DataError: each row holds several values.
    """
    array = whole(column)
    if pa.types.is_nested(array.type):
        raise DataError(
            f"a column of {array.type} holds more than one value per row",
            hint="read a list with transform: bag or transform: sequence",
        )
    if pa.types.is_float16(array.type):
        array = array.cast(pa.float32())
    if pa.types.is_null(array.type):
        return np.full(len(array), -1, np.int32), pa.array([], pa.string())
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    indices, values = array.indices, array.dictionary
    if array.null_count:
        indices = pc.fill_null(indices, -1)
    codes = indices.to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
    if pa.types.is_string(values.type) and _is_clean(values):
        # By far the most frequent case, and the one that a request waits for.
        return codes, values
    tokens = _tokens(values)
    absent = np.asarray(pc.fill_null(pc.equal(pc.utf8_length(tokens), 0), True))
    # Different values may share a token (1 and 1.0 in a mixed column): number the tokens.
    unique = tokens.filter(pa.array(~absent)).unique()
    number = np.asarray(pc.fill_null(pc.index_in(tokens, unique), -1)).astype(np.int32)
    number = np.where(absent, -1, number).astype(np.int32)
    if not len(number):
        return np.full(len(codes), -1, np.int32), unique
    return np.where(codes < 0, -1, number[np.maximum(codes, 0)]).astype(np.int32), unique


def _is_clean(values: pa.Array) -> bool:
    """Whether strings are their own tokens: valid UTF-8, none of them null or empty."""
    if values.null_count or not len(values):
        return False
    offsets = np.frombuffer(values.buffers()[1], np.int32)
    ends = offsets[values.offset : values.offset + len(values) + 1]
    if (np.diff(ends) == 0).any():
        return False
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _tokens(values: pa.Array) -> pa.Array:
    kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return readable_text(values.cast(pa.large_binary()))
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return readable_text(values)
    if pa.types.is_boolean(kind):
        return values.cast(pa.int8()).cast(pa.string())
    if pa.types.is_floating(kind):
        numbers = np.asarray(pc.fill_null(values.cast(pa.float64()), np.nan))
        text = values.cast(pa.float64()).cast(pa.string())
        is_whole = (
            np.isfinite(numbers) & (np.abs(numbers) < _WHOLE) & (np.floor(numbers) == numbers)
        )
        digits = pa.array(np.where(is_whole, numbers, 0).astype(np.int64)).cast(pa.string())
        text = pc.if_else(pa.array(is_whole), digits, text)
        return pc.if_else(pa.array(np.isnan(numbers)), pa.scalar(None, pa.string()), text)
    return values.cast(pa.string())


def readable_text(values: pa.Array) -> pa.Array:
    """Read binary as UTF-8 text; a value that is not UTF-8 becomes its hexadecimal digits."""
    try:
        text = values.cast(pa.string())
        text.validate(full=True)
        return text
    except pa.ArrowInvalid:
        return pa.array([_text(value) for value in values.to_pylist()], pa.string())


def _text(value: bytes | None) -> str | None:
    if value is None:
        return None
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return "0x" + value.hex()


def token_hashes(tokens: pa.Array) -> Hashes:
    """Hash tokens: `pandas.util.hash_array`, SipHash with a fixed key, the same everywhere."""
    values = tokens.to_numpy(zero_copy_only=False)
    return pd.util.hash_array(values, categorize=False).astype(np.uint64)


def hashes(column: pa.ChunkedArray | pa.Array) -> Hashes:
    """Hash the keys of rows; missing ones are 0.

    Integers are hashed as they are: keys are distinct, and printing each would be slow. The
    integer 5 and the text 5 differ here; where they must not, as in features, use `joint_hashes`.

    Returns:
        uint64 [rows]
    """
    array = whole(column)
    if pa.types.is_integer(array.type):
        absent = np.asarray(pc.is_null(array))
        found = pd.util.hash_array(np.asarray(pc.fill_null(array, 0).cast(pa.int64(), safe=False)))
        return np.where(absent, np.uint64(0), found)
    codes, tokens = encode(array)
    table = np.concatenate([token_hashes(tokens), np.zeros(1, np.uint64)])
    return np.asarray(table[codes])


def joint_hashes(columns: list[tuple[npt.NDArray[np.int32], pa.Array]]) -> Hashes:
    """Hash the values of several encoded columns together, by their tokens; order matters.

    Args:
        columns: codes int32 [rows] and tokens of each, from `encode`.

    Returns:
        uint64 [rows]; a missing value counts as a value of its own.
    """
    joint = np.zeros(len(columns[0][0]), np.uint64)
    for codes, tokens in columns:
        table = np.append(token_hashes(tokens), np.uint64(0))
        joint = joint * np.uint64(0x9E3779B97F4A7C15) + table[codes]
        joint ^= joint >> np.uint64(32)
    return joint


def numbers(column: pa.ChunkedArray | pa.Array) -> Floats:
    """Read each value as a number; what is none, or infinite, is NaN.

    Returns:
        float64 [rows]
    """
    array = whole(column)
    kind = array.type
    if pa.types.is_null(kind):
        return np.full(len(array), np.nan)
    if pa.types.is_dictionary(kind):
        array, kind = array.cast(array.type.value_type), array.type.value_type
    if pa.types.is_boolean(kind) or pa.types.is_decimal(kind):
        array, kind = array.cast(pa.float64()), pa.float64()
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        values = np.asarray(pc.fill_null(array.cast(pa.float64(), safe=False), np.nan))
    elif pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        values = np.asarray(pc.fill_null(as_time(array).cast(pa.int64()).cast(pa.float64(),
                            safe=False), np.nan))  # fmt: skip
    else:
        codes, tokens = encode(array)
        parsed = pd.to_numeric(pd.Series(tokens.to_pylist(), dtype=object), errors="coerce")
        table = np.append(parsed.to_numpy(np.float64), np.nan)
        values = table[codes]
    return np.where(np.isfinite(values), values, np.nan)


def as_time(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Read a column as timestamp[us, UTC]; what cannot be read becomes null.

    Numbers are seconds, milliseconds or microseconds since 1970, by their size; strings are ISO
    8601; times without a zone are UTC.
    """
    array = whole(column)
    kind = array.type
    if pa.types.is_timestamp(kind):
        if kind.tz is None:
            return array.cast(pa.timestamp("us"), safe=False).cast(MICROSECOND)
        return array.cast(MICROSECOND, safe=False)
    if pa.types.is_date(kind):
        return array.cast(pa.timestamp("us")).cast(MICROSECOND)
    if pa.types.is_null(kind):
        return pa.nulls(len(array), MICROSECOND)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        values = np.asarray(pc.fill_null(array.cast(pa.float64(), safe=False), np.nan))
        scale = np.select([np.abs(values) < 1e11, np.abs(values) < 1e14], [1e6, 1e3], 1.0)
        scaled = values * scale
        known = np.isfinite(scaled) & (np.abs(scaled) < 9e18)
        micros = np.where(known, scaled, 0).astype(np.int64)
        return pa.array(micros, pa.int64(), mask=~known).cast(MICROSECOND)
    codes, tokens = encode(array)
    parsed = pd.to_datetime(
        pd.Series(tokens.to_pylist(), dtype=object), errors="coerce", utc=True, format="ISO8601"
    )
    found = pa.Array.from_pandas(parsed.astype("datetime64[us, UTC]")).cast(MICROSECOND)
    return found.take(pa.array(codes, mask=codes < 0))
