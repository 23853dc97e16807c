"""Parsing columns of any type as times; see `nightbid.column_parsing`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.column_parsing import Floats, Ints, encode, pandas_for, whole

MICROSECOND = pa.timestamp("us", "UTC")
SINCE = r"^([0-8]?[0-9]{8,18}|[0-9]{8,}\.[0-9]+|[0-9](\.[0-9]+)?[eE]\+?[0-9]{1,2})$"
"""Pattern of texts that count (parts of) seconds since 1970 or are the digits of a date."""
CALENDAR = r"^(19|20)[0-9]{2}(0[1-9]|1[0-2])[0-3][0-9]([0-9]{6}|[0-9]{9})?$"
"""Pattern of the digits of a date: yyyyMMdd, yyyyMMddHHmmss, yyyyMMddHHmmssSSS."""
ENDS_IN_ZONE = r"([Zz]|[Tt ][0-9:.,]+\s?[+-][0-9]{2}:?([0-9]{2})?|UTC|GMT)\s*$"
"""Pattern of times that state a zone; the end of the date 2026-01-05 is none."""


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


def second_occurrence(micros: Ints, zone: str) -> Ints:
    """Return when the clock of a zone shows the same local time for the last time.

    In the hour that occurs twice when clocks go back, this is later than the given time, if that is
    in the first of the two; otherwise it is the same.

    Args:
        micros: [times], microseconds since 1970.
        zone: Time zone of the clock.
    """
    if zone == "UTC":
        return micros
    local = local_time(pa.array(micros).cast(MICROSECOND), zone).cast(pa.timestamp("us"))
    last = pc.assume_timezone(local, zone, ambiguous="latest", nonexistent="latest")
    return np.asarray(last.cast(pa.int64()))


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
    times, local = as_time(array), is_local_time(array)
    if local.all():
        return time_of_zone(times, zone)
    return pc.if_else(pa.array(local), time_of_zone(times, zone), times) if local.any() else times


def is_local_time(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.bool_]:
    """Whether each value is a clock's local time, bool [rows]: it states no zone.

    Numbers of (parts of) seconds since 1970 and timestamps with a zone are instants. A missing
    value is no local time, except in a column of timestamps without a zone.
    """
    array = whole(column)
    kind = array.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return np.full(len(array), pa.types.is_date(kind) or kind.tz is None)
    if pa.types.is_null(kind):
        return np.zeros(len(array), bool)
    codes, tokens = encode(array)
    since = np.asarray(pc.match_substring_regex(tokens, SINCE))
    calendar = np.asarray(pc.match_substring_regex(tokens, CALENDAR))
    ends = np.asarray(pc.match_substring_regex(tokens, ENDS_IN_ZONE))
    local: npt.NDArray[np.bool_] = np.append((since & calendar) | (~since & ~ends), False)[codes]
    return local


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
    pd = pandas_for("times")
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
