"""Parsing columns of any type as tokens, hashes, numbers or times.

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

MICROSECOND = pa.timestamp("us", "UTC")
Hashes = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
LARGEST = 1e38
"""Largest number that is read; larger ones do not fit float32, and logs use them for "unknown"."""
NULL_TEXTS = ("", "\\N", "null", "NULL", "None", "NaN", "nan", "NA", "N/A", "-")
"""Texts that mean a missing number or time."""
GROUPED = r"^[+-]?[0-9]{1,3}((,[0-9]{3})+\.[0-9]+|(,[0-9]{3}){2,})$"
"""Pattern of numbers with thousands separators that cannot be decimal commas."""
SINCE = r"^([0-8]?[0-9]{8,18}|[0-9]{8,}\.[0-9]+|[0-9](\.[0-9]+)?[eE]\+?[0-9]{1,2})$"
"""Pattern of texts that count (parts of) seconds since 1970 or are the digits of a date."""
CALENDAR = r"^(19|20)[0-9]{2}(0[1-9]|1[0-2])[0-3][0-9]([0-9]{6}|[0-9]{9})?$"
"""Pattern of the digits of a date: yyyyMMdd, yyyyMMddHHmmss, yyyyMMddHHmmssSSS."""
ENDS_IN_ZONE = r"([Zz]|[Tt ][0-9:.,]+\s?[+-][0-9]{2}:?([0-9]{2})?|UTC|GMT)\s*$"
"""Pattern of times that state a zone; the end of the date 2026-01-05 is none."""
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
        return pa.array([_text(value) for value in values.to_pylist()], pa.string())


def _text(value: bytes | None) -> str | None:
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


def numbers(column: pa.ChunkedArray | pa.Array) -> Floats:
    """Read each value as a number; other values, infinity and values beyond `LARGEST` become NaN.

    Texts may have thousands separators if they are unambiguous: `2,340.50` and `1,234,567`, but not
    `2,340`.

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
        if array.null_count:
            values = np.asarray(pc.fill_null(array.cast(pa.float64(), safe=False), np.nan))
        else:  # the same numbers; saves a call into Arrow, for the latency of requests
            values = array.to_numpy(zero_copy_only=False).astype(np.float64)
    elif pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        values = np.asarray(pc.fill_null(as_time(array).cast(pa.int64()).cast(pa.float64(),
                            safe=False), np.nan))  # fmt: skip
    else:
        codes, tokens = encode(array)
        values = np.append(_numbers_of_text(tokens), np.nan)[codes]
    with np.errstate(invalid="ignore"):
        return np.where(np.abs(values) < LARGEST, values, np.nan)


def _pandas(values: str) -> Any:
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


def _numbers_of_text(tokens: pa.Array) -> Floats:
    text = pc.utf8_trim_whitespace(tokens)
    plain = pc.if_else(
        pc.match_substring_regex(text, GROUPED), pc.replace_substring(text, ",", ""), text
    )
    pd = _pandas("numbers")
    parsed = pd.to_numeric(pd.Series(plain.to_pylist(), dtype=object), errors="coerce")
    return np.asarray(parsed.to_numpy(np.float64))


def local_time(time: pa.Array | pa.ChunkedArray, zone: str) -> pa.Array:
    """Convert instants to the local clock of a zone, labeled as UTC: timestamp[us, UTC]."""
    if zone == "UTC":
        return whole(time)
    local = whole(time).cast(pa.timestamp("us", zone))
    return pc.local_timestamp(local).cast(MICROSECOND)


def time_of_zone(time: pa.Array, zone: str) -> pa.Array:
    """Convert local times of a zone to instants: the inverse of `local_time`.

    A local time that occurs twice is the earlier instant; one that is skipped is an hour later.
    """
    if zone == "UTC":
        return time
    plain = time.cast(pa.timestamp("us"))
    return pc.assume_timezone(
        plain, zone, ambiguous="earliest", nonexistent="latest"
    ).cast(MICROSECOND)  # fmt: skip


def as_time(column: pa.ChunkedArray | pa.Array, zone: str = "UTC") -> pa.Array:
    """Read a column as timestamp[us, UTC]; unreadable values become null.

    Numbers are seconds, milliseconds, microseconds or nanoseconds since 1970, depending on their
    size, or the digits of a date: yyyyMMdd, yyyyMMddHHmmss, yyyyMMddHHmmssSSS. Texts are ISO 8601,
    optionally followed by UTC, or such numbers. Times without a zone, including digits of a date,
    are in `zone`.
    """
    array = whole(column)
    if zone != "UTC":
        return _of_zone(array, zone)
    kind = array.type
    if kind == MICROSECOND:
        return array
    if pa.types.is_timestamp(kind):
        if kind.tz is None:
            return array.cast(pa.timestamp("us"), safe=False).cast(MICROSECOND)
        return array.cast(MICROSECOND, safe=False)
    if pa.types.is_date(kind):
        return array.cast(pa.timestamp("us")).cast(MICROSECOND)
    if pa.types.is_null(kind):
        return pa.nulls(len(array), MICROSECOND)
    if pa.types.is_uint64(kind):
        fits = pc.less(array, pa.scalar(2**63, pa.uint64()))
        array = pc.if_else(fits, array, pa.scalar(None, pa.uint64()))
    if pa.types.is_integer(kind):
        return _times_of_integers(array.cast(pa.int64()))
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _times_of_floats(np.asarray(pc.fill_null(array.cast(pa.float64()), np.nan)))
    codes, tokens = encode(array)
    return _times_of_text(tokens).take(pa.array(codes, mask=codes < 0))


def _of_zone(array: pa.Array, zone: str) -> pa.Array:
    """Read times as `as_time` does, with times without a zone in the given zone."""
    times = as_time(array)
    kind = array.type
    if pa.types.is_null(kind) or (pa.types.is_timestamp(kind) and kind.tz is not None):
        return times
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return time_of_zone(times, zone)
    codes, tokens = encode(array)
    since = np.asarray(pc.match_substring_regex(tokens, SINCE))
    calendar = np.asarray(pc.match_substring_regex(tokens, CALENDAR))
    ends = np.asarray(pc.match_substring_regex(tokens, ENDS_IN_ZONE))
    naive = np.append((since & calendar) | (~since & ~ends), False)[codes]
    return pc.if_else(pa.array(naive), time_of_zone(times, zone), times)


def _times_of_integers(array: pa.Array) -> pa.Array:
    values = np.asarray(pc.fill_null(array, 0))
    size = np.abs(values)
    micros = np.select(
        [size < 10**11, size < 10**14, size < 10**17],
        [values * 10**6, values * 10**3, values],
        values // 10**3,
    )
    absent = np.array(pc.is_null(array), bool)
    for digits, unit in ((8, 10**6), (14, 1), (17, 1)):
        place = np.flatnonzero((values >= 10 ** (digits - 1)) & (values < 10**digits))
        if len(place):
            calendar, valid = _digits_of_a_date(values[place] * unit, digits)
            micros[place[valid]] = calendar[valid]
            if digits > 8:  # as a count since 1970, they would be after the year 2286
                absent[place[~valid]] = True
    return pa.array(micros, pa.int64(), mask=absent).cast(MICROSECOND)


def _digits_of_a_date(values: Ints, digits: int) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Read yyyyMMdd…: return microseconds since 1970, and a mask of the valid dates."""
    millis = values % 1000 if digits == 17 else np.zeros(len(values), np.int64)
    values = values // 1000 if digits == 17 else values
    clock, date = values % 10**6, values // 10**6
    hour, minute, second = clock // 10**4, clock // 100 % 100, clock % 100
    year, month, day = date // 10**4, date // 100 % 100, date % 100
    valid = (year >= 1970) & (year < 2100) & (month >= 1) & (month <= 12) & (day >= 1)
    valid &= (hour < 24) & (minute < 60) & (second < 60)
    months = np.where(valid, (year - 1970) * 12 + month - 1, 0)
    first = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    following = (months + 1).astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    valid &= day <= following - first
    seconds = (first + day - 1) * 86_400 + hour * 3600 + minute * 60 + second
    return seconds * 10**6 + millis * 1000, valid


def _times_of_floats(values: Floats) -> pa.Array:
    size = np.abs(values)
    known = np.isfinite(values) & (size < 2**63)
    safe = np.where(known, values, 0.0)
    is_whole = np.floor(safe) == safe
    exactly = _times_of_integers(pa.array(safe.astype(np.int64))).cast(pa.int64())
    absent = np.asarray(pc.is_null(exactly))
    exact = np.asarray(pc.fill_null(exactly, 0))
    scale = np.select([size < 1e11, size < 1e14, size < 1e17], [1e6, 1e3, 1.0], 1e-3)
    micros = np.where(is_whole, exact, (safe * scale).astype(np.int64))
    return pa.array(micros, pa.int64(), mask=~known | (is_whole & absent)).cast(MICROSECOND)


def _times_of_text(tokens: pa.Array) -> pa.Array:
    text = pc.replace_substring_regex(pc.utf8_trim_whitespace(tokens), r"\s*(UTC|GMT)$", "")
    number = np.asarray(pc.match_substring_regex(text, SINCE))
    nothing = pa.scalar(None, pa.string())
    pd = _pandas("times")
    parsed = pd.to_datetime(
        pd.Series(pc.if_else(pa.array(number), nothing, text).to_pylist(), dtype=object),
        errors="coerce",
        utc=True,
        format="ISO8601",
    )
    times = pa.Array.from_pandas(parsed.astype("datetime64[us, UTC]")).cast(MICROSECOND)
    if not number.any():
        return times
    digits = pc.match_substring_regex(text, r"^[0-8]?[0-9]{8,18}$")
    integers = pc.if_else(digits, text, nothing).cast(pa.int64())
    others = pc.if_else(pc.and_(pa.array(number), pc.invert(digits)), text, nothing)
    floats = np.asarray(pc.fill_null(others.cast(pa.float64()), np.nan))
    return pc.coalesce(times, _times_of_integers(integers), _times_of_floats(floats))
