"""Parsing columns of any type as tokens and their hashes.

Logs spell the same value in many ways. All readers (sampling, features, serving) use these
functions, so that a value means the same everywhere. The work is done once per distinct value, not
per row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.errors import ConfigError, DataError
from nightbid.hashing import integer_hashes, text_hash, text_hashes

Hashes = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
NULL_TEXTS = ("", "\\N", "null", "NULL", "None", "NaN", "nan", "NA", "N/A", "-")
"""Texts that mean a missing number or time."""
_WHOLE = 2.0**53
"""Bound below which whole floats are written as integers: 6 and 6.0 are the same token."""


def whole(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Join the chunks of a column."""
    if isinstance(column, pa.ChunkedArray):
        if column.num_chunks == 1:
            return column.chunk(0)
        joined = column.combine_chunks()
        if isinstance(joined, pa.ChunkedArray):
            joined = pa.concat_arrays(joined.chunks) if joined.num_chunks else pa.array(
                [], column.type)  # fmt: skip
        return joined
    return column


def encode(column: pa.ChunkedArray | pa.Array) -> tuple[npt.NDArray[np.int32], pa.Array]:
    """Split a column into codes and the tokens they stand for.

    Null, NaN and the empty string are missing: code -1. Bytes that are not UTF-8 are replaced by
    their hexadecimal digits.

    Returns:
        int32 [rows] codes, and the tokens: strings, distinct unless the dictionary of the column
        has duplicates.

    Raises:
        DataError: The rows are lists.
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
        # Fast path of the most frequent case, which also matters for the latency of requests.
        return codes, values
    tokens = _tokens(values)
    absent = np.asarray(pc.fill_null(pc.equal(pc.utf8_length(tokens), 0), True))
    # Different values may share a token (1 and 1.0 in a mixed column), so number the tokens.
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
        return pa.array([as_text(value) for value in values.to_pylist()], pa.string())


def as_text(value: bytes | None) -> str | None:
    """Read bytes as UTF-8; other bytes become their hexadecimal digits."""
    if value is None:
        return None
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return "0x" + value.hex()


def token_hashes(tokens: pa.Array) -> Hashes:
    """Hash tokens with SipHash and a fixed key, the same everywhere; see `nightbid.hashing`."""
    values = tokens.to_numpy(zero_copy_only=False)
    return text_hashes(values)


def hashes(column: pa.ChunkedArray | pa.Array) -> Hashes:
    """Hash the keys of rows; missing keys are 0.

    Integers are hashed without converting them to text, which would be slow for distinct keys. The
    integer 5 and the text 5 have different hashes here; use `joint_hashes` where they must be
    equal, as in features.

    Returns:
        uint64 [rows]
    """
    array = whole(column)
    if pa.types.is_integer(array.type):
        absent = np.asarray(pc.is_null(array))
        known = np.asarray(pc.fill_null(array, 0).cast(pa.int64(), safe=False))
        hashed = integer_hashes(known)
        return np.where(absent, np.uint64(0), hashed)
    codes, tokens = encode(array)
    table = np.concatenate([token_hashes(tokens), np.zeros(1, np.uint64)])
    return np.asarray(table[codes])


def joint_hashes(columns: list[tuple[npt.NDArray[np.int32], pa.Array]]) -> Hashes:
    """Hash the values of several encoded columns together, by their tokens; order matters.

    Args:
        columns: (Codes int32 [rows], tokens) of each column, from `encode`.

    Returns:
        uint64 [rows] hashes; a missing value counts as a value of its own.
    """
    joint = np.zeros(len(columns[0][0]), np.uint64)
    for codes, tokens in columns:
        table = np.append(token_hashes(tokens), np.uint64(0))
        joint = joint * np.uint64(0x9E3779B97F4A7C15) + table[codes]
        joint ^= joint >> np.uint64(32)
    return joint


def joint_hash(tokens: Sequence[str | None]) -> Hashes:
    """Compute `joint_hashes` of the tokens of one row (None: missing), as uint64 [1]."""
    joint = 0
    for token in tokens:
        hashed = 0 if token is None else text_hash(token)
        joint = (joint * 0x9E3779B97F4A7C15 + hashed) & 0xFFFFFFFFFFFFFFFF
        joint ^= joint >> 32
    return np.array([joint], np.uint64)


def pandas_for(values: str) -> Any:
    """Import pandas, which a bundle needs only to read texts as numbers or times."""
    try:
        import pandas as pd
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{values} in a column of text, and pandas is not installed",
            where="lookup",
            hint=f"pip install pandas, or send {values}",
        ) from error
    return pd
