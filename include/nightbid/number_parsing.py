"""Parsing columns of any type as numbers; see `nightbid.column_parsing`."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.column_parsing import Floats, encode, pandas_for, whole
from nightbid.time_parsing import as_time

LARGEST = 1e38
"""Largest number that is read; larger ones do not fit float32, and logs use them for "unknown"."""
GROUPED = r"^[+-]?[0-9]{1,3}((,[0-9]{3})+\.[0-9]+|(,[0-9]{3}){2,})$"
"""Pattern of numbers with thousands separators that cannot be decimal commas."""


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


def _numbers_of_text(tokens: pa.Array) -> Floats:
    text = pc.utf8_trim_whitespace(tokens)
    plain = pc.if_else(
        pc.match_substring_regex(text, GROUPED), pc.replace_substring(text, ",", ""), text
    )
    pd = pandas_for("numbers")
    parsed = pd.to_numeric(pd.Series(plain.to_pylist(), dtype=object), errors="coerce")
    return np.asarray(parsed.to_numpy(np.float64))
