"""Convert a column's JSON values to Arrow and back, exactly or not at all.

Callers send the values of the logs. JSON has fewer types than Arrow, so times and dates are encoded
as ISO 8601, decimals as numbers or strings. Values are never coerced: 3.99 is not a value of an
integer column, true is not 1.0, and a string is not a list of its letters.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np
import pyarrow as pa

WRONG = (pa.ArrowException, TypeError, ValueError, OverflowError, InvalidOperation)
"""Exceptions for a value that does not have the column's type."""
MOST_EXACT = 2**53
"""From here on, a JSON number with a fraction or an exponent may stand for several integers."""
FLOAT_DIGITS = 15
"""Number of significant digits that every float64 preserves."""
DECIMAL = re.compile(r"\s*[+-]?[0-9]*\.?[0-9]*(?:[eE][+-]?[0-9]+)?\s*")
"""Texts of a decimal; Python would also read `1_000` as one."""
LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


def from_json(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Convert JSON values to an Arrow column.

    Args:
        values: [rows], as `json.loads` returns them; None is null.
        kind: Type of the column in the logs. A column that was always null accepts any values of
            one type: every vocabulary treats them as unknown.

    Returns:
        [rows], of type `kind`.

    Raises:
        WRONG: A value does not have that type; `WRONG` is a tuple of exceptions.
    """
    types = set(map(type, values)) - {type(None)}
    if pa.types.is_null(kind):
        return pa.array(values)
    if pa.types.is_dictionary(kind):
        return from_json(values, kind.value_type).dictionary_encode().cast(kind)
    if pa.types.is_boolean(kind):
        _only(types, bool)
    elif pa.types.is_integer(kind):
        _only(types, int, float)
        if float in types:
            values = [_whole(value) for value in values]
    elif pa.types.is_floating(kind):
        _only(types, int, float)
    elif pa.types.is_decimal(kind):
        _only(types, int, float, str)
        return pa.array([_decimal(value) for value in values], kind)
    elif pa.types.is_timestamp(kind):
        _only(types, str)
        zone = dt.UTC if kind.tz else None
        return pa.array([_moment(value, zone) for value in values], kind)
    elif pa.types.is_date(kind):
        _only(types, str)
        return pa.array(
            [None if value is None else dt.date.fromisoformat(value) for value in values], kind
        )
    elif pa.types.is_time(kind):
        _only(types, str)
        return pa.array(
            [None if value is None else dt.time.fromisoformat(value) for value in values], kind
        )
    elif any(test(kind) for test in LISTS):
        _only(types, list)
        items = from_json([item for value in values for item in value or ()], kind.value_type)
        offsets = np.concatenate([[0], np.cumsum([len(value or ()) for value in values])])
        known = np.array([value is not None for value in values], bool)
        lists = pa.ListArray.from_arrays(
            pa.array(offsets.astype(np.int32)), items, mask=pa.array(~known)
        )
        return lists.cast(kind)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        _only(types, str)
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        _only(types, str)
        return pa.array([None if value is None else value.encode() for value in values], kind)
    return pa.array(values, kind)


def to_json(table: pa.Table) -> bytes:
    """Encode rows as the body of a request that a caller would send to score them.

    Args:
        table: Raw rows; NaN becomes null.

    Returns:
        `{"rows": [{column: value, …}, …]}`.
    """
    rows = [{name: _plain(value) for name, value in row.items()} for row in table.to_pylist()]
    return json.dumps({"rows": rows}, default=_text).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _text(value: Any) -> Any:
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    raise TypeError(f"{type(value).__name__} cannot be represented in JSON")


def _only(types: set[type], *known: type) -> None:
    if other := types.difference(known):
        raise TypeError(f"{other.pop().__name__} is another type")


def _whole(value: float | int | None) -> int | None:
    if value is None or type(value) is int:
        return value
    if abs(value) >= MOST_EXACT or value != int(value):
        raise ValueError(f"{value} is not a whole number, or one that lost its last digits")
    return int(value)


def _decimal(value: float | int | str | None) -> Decimal | None:
    if value is None:
        return None
    if type(value) is str and not DECIMAL.fullmatch(value):
        raise ValueError(f"{value!r} is not a decimal")
    number = Decimal(str(value))
    # A float's shortest form is the number that the caller wrote, if that had at most 15 digits.
    if type(value) is float and len(number.as_tuple().digits) > FLOAT_DIGITS:
        raise ValueError(f"{value} may have lost digits")
    return number


def _moment(value: str | None, zone: dt.tzinfo | None) -> dt.datetime | None:
    """Parse a time; times without a zone are UTC, as in the logs."""
    if value is None:
        return None
    moment = dt.datetime.fromisoformat(value)
    if moment.tzinfo is None:
        return moment.replace(tzinfo=zone)
    moment = moment.astimezone(dt.UTC)
    return moment if zone else moment.replace(tzinfo=None)
