"""Texts of typed files that are not UTF-8, which their formats and Arrow do not check."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from nightbid.column_parsing import as_text

_BINARY = {
    pa.string(): pa.binary(),
    pa.large_string(): pa.large_binary(),
    pa.string_view(): pa.binary_view(),
}


def with_valid_text(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """Replace texts that are not UTF-8 by their hexadecimal digits, as in columns of bytes.

    Args:
        column: Column of any type; texts may be in lists or in a dictionary.
    """
    stored = _as_bytes(column.type)
    if stored == column.type:
        return column
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        plain = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        return pa.array(_texts(column.cast(stored).to_pylist()), plain)
    return column


def _texts(values: list[Any]) -> list[Any]:
    return [_texts(value) if isinstance(value, list) else as_text(value) for value in values]


def _as_bytes(kind: pa.DataType) -> pa.DataType:
    """Return the type with bytes instead of texts."""
    if pa.types.is_dictionary(kind):
        return _as_bytes(kind.value_type)
    if pa.types.is_list(kind):
        return pa.list_(_as_bytes(kind.value_type))
    if pa.types.is_large_list(kind):
        return pa.large_list(_as_bytes(kind.value_type))
    return _BINARY.get(kind, kind)
