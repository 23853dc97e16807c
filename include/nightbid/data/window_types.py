"""Determines one type per column for all files of a window, before rows are read.

Types that differ between files are widened if no value is lost. Otherwise an error names the file,
the column and both types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.column_parsing import encode
from nightbid.config.folder_source import ColumnType
from nightbid.data.text_values import CALLED, TextFormat, cast
from nightbid.errors import CorruptDataError
from nightbid.schema import REASON, TEXT
from nightbid.time_parsing import MICROSECOND, as_time

_CONVERT = "convert the files to one type, or name the type in source.types"


class TypeConflictError(CorruptDataError):
    """Raised if files have types of a column without a common wider type."""

    column = ""
    """The column; empty if one of its types is a list, which `source.types` cannot convert."""


def settle(
    schemas: Iterable[tuple[Path, pa.Schema]],
    is_optional: Callable[[str], bool] = lambda name: False,
    *,
    is_json: bool = False,
) -> dict[str, pa.DataType]:
    """Find one type for every column that can hold the values of all files.

    Args:
        schemas: Files and their schemas, in order.
        is_optional: Returns whether the pipeline does not use a column.
        is_json: Whether times are texts in the files, as in JSON: with other texts, they are texts.

    Returns:
        Column → type, without optional columns that have no common type.

    Raises:
        CorruptDataError: Two files have types without a common wider type.
    """
    types: dict[str, pa.DataType] = {}
    first: dict[str, Path] = {}
    left: set[str] = set()
    for path, schema in schemas:
        for field in schema:
            name = field.name
            if name not in types or pa.types.is_null(types[name]):
                types[name], first[name] = field.type, path
                continue
            wide = wider(types[name], field.type, is_json=is_json)
            if wide is None and is_optional(name):
                left.add(name)
            elif wide is None:
                error = TypeConflictError(
                    f"column {name!r} does not have the same type as in {_shown(first[name])}: it"
                    " is"
                    f" {field.type} here and {types[name]} there",
                    where=str(path),
                    hint=_CONVERT,
                )
                if not (_is_list(types[name]) or _is_list(field.type)):
                    error.column = name
                raise error
            else:
                types[name] = wide
    return {name: kind for name, kind in types.items() if name not in left}


def _shown(path: Path) -> str:
    return "/".join(path.parts[-2:])


def wider(one: pa.DataType, other: pa.DataType, *, is_json: bool = False) -> pa.DataType | None:
    """Return a type that holds the values of both, or None; see `settle`."""
    kinds = pa.types
    if one == other or kinds.is_null(other):
        return one
    if kinds.is_null(one):
        return other
    if kinds.is_dictionary(one) or kinds.is_dictionary(other):
        return wider(_plain(one), _plain(other))
    if _is_text(one) and _is_text(other):
        return pa.string() if pa.string() in (one, other) else one
    integers = kinds.is_integer(one), kinds.is_integer(other)
    if all(integers):
        return _wider_integer(one, other)
    floats = kinds.is_floating(one), kinds.is_floating(other)
    if all(floats):
        return max(one, other, key=lambda kind: kind.bit_width)
    if any(integers) and any(floats):
        return pa.float64()
    if any(integers) and (_is_text(one) or _is_text(other)):
        return pa.string()
    if any(integers) and (kinds.is_boolean(one) or kinds.is_boolean(other)):
        return one if integers[0] else other
    if kinds.is_decimal(one) or kinds.is_decimal(other):
        return _wider_decimal(one, other)
    if _is_moment(one) and _is_moment(other):
        return MICROSECOND
    if is_json and any(map(_is_text, (one, other))) and any(map(_is_moment, (one, other))):
        return pa.string()
    if _is_list(one) and _is_list(other):
        inner = wider(one.value_type, other.value_type, is_json=is_json)
        return None if inner is None else pa.list_(inner)
    return None


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    kinds = pa.types
    return bool(
        kinds.is_string(kind)
        or kinds.is_large_string(kind)
        or kinds.is_string_view(kind)
        or kinds.is_binary(kind)
        or kinds.is_large_binary(kind)
        or kinds.is_binary_view(kind)
    )


def holds_text(kind: pa.DataType) -> bool:
    """Return whether a column holds texts, or lists of texts."""
    while _is_list(kind):
        kind = kind.value_type
    return _is_text(kind)


def _is_moment(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def _is_list(kind: pa.DataType) -> bool:
    kinds = pa.types
    return bool(kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind))


def _wider_integer(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    signed = pa.types.is_signed_integer(one), pa.types.is_signed_integer(other)
    if signed[0] == signed[1]:
        return max(one, other, key=lambda kind: kind.bit_width)
    unsigned = other if signed[0] else one
    # Only text holds both types' values beyond 2^63, digit by digit.
    return pa.string() if unsigned.bit_width == 64 else pa.int64()


def _wider_decimal(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    both = [one, other]
    if any(pa.types.is_floating(kind) for kind in both):
        return pa.float64()
    if not all(pa.types.is_decimal(kind) or pa.types.is_integer(kind) for kind in both):
        return None
    scales = [kind.scale if pa.types.is_decimal(kind) else 0 for kind in both]
    wholes = [kind.precision - kind.scale if pa.types.is_decimal(kind) else 20 for kind in both]
    precision = max(wholes) + max(scales)
    return pa.decimal128(precision, max(scales)) if precision <= 38 else None


def fit(
    table: pa.Table,
    types: Mapping[str, pa.DataType],
    declared: Mapping[str, ColumnType],
    path: Path,
    is_optional: Callable[[str], bool] = lambda name: False,
    style: TextFormat | None = None,
) -> pa.Table:
    """Convert the columns of a file to the types of the window.

    Args:
        table: Some rows of the file.
        types: Types of the window's columns.
        declared: Types from the pipeline; a value that does not match sets its row aside.
        path: The file, for error messages.
        is_optional: Returns whether the pipeline does not use a column.
        style: How texts of declared types are written, and the zone of times that state none;
            defaults if None.

    Returns:
        The rows, with `nb_reason` and `nb_text` if any type is declared.

    Raises:
        CorruptDataError: A value does not fit, for example an integer that a float would round.
    """
    style = style or TextFormat()
    reason = np.full(len(table), None, object)
    text = np.full(len(table), None, object)
    for place, name in enumerate(table.column_names):
        column = table[name]
        if name in declared:
            column, wrong = _as_declared(column, declared[name], name, path, style)
            fresh = wrong & (reason == None)  # noqa: E711 - element by element
            if fresh.any():
                reason[fresh] = f"{name} is not {CALLED.get(declared[name], 'UTF-8')}"
                text[fresh] = [
                    str(value) for value in table[name].filter(pa.array(fresh)).to_pylist()
                ]
        elif column.type != types[name]:
            try:
                column = _widened(column, types[name], style.time_zone)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                if is_optional(name):
                    table = table.set_column(place, name, pa.nulls(len(table), types[name]))
                    continue
                raise CorruptDataError(
                    f"column {name!r} is {column.type} here and {types[name]} in other files, and"
                    f" cannot become it: {str(error).splitlines()[0]}",
                    where=str(path),
                    hint=_CONVERT,
                ) from error
        if column is not table[name]:
            table = table.set_column(place, name, column)
    if declared:
        table = table.append_column(REASON, pa.array(reason, pa.string()))
        table = table.append_column(TEXT, pa.array(text, pa.string()))
    return table


def _widened(column: pa.ChunkedArray, target: pa.DataType, zone: str) -> pa.ChunkedArray | pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if target == MICROSECOND:
        return as_time(column, zone)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    return column.cast(target)


def _as_declared(
    column: pa.ChunkedArray, kind: ColumnType, name: str, path: Path, style: TextFormat
) -> tuple[pa.Array | pa.ChunkedArray, np.ndarray]:
    none = np.zeros(len(column), bool)
    stored = column.type
    if pa.types.is_nested(stored):
        raise CorruptDataError(
            f"column {name!r} is {stored}, which source.types declares as {kind}",
            where=str(path),
            hint="lists cannot be converted: remove the column from source.types",
        )
    if kind == "time" and not _is_text(_plain(stored)):
        times = as_time(column, style.time_zone)
        return times, np.asarray(pc.is_null(times)) & np.asarray(pc.is_valid(column))
    if kind == "float" and (pa.types.is_integer(stored) or pa.types.is_decimal(stored)):
        return column.cast(pa.float64(), safe=False), none
    if kind == "float" and pa.types.is_floating(stored):
        return column.cast(pa.float64()), none
    if kind == "int" and pa.types.is_integer(stored) and stored != pa.uint64():
        return column.cast(pa.int64()), none
    # Convert through text, since that is how other types are read when text is requested.
    codes, tokens = encode(column)
    values, wrong = cast(tokens.cast(pa.binary()), kind, style)
    at = pa.array(codes, mask=codes < 0)
    bad = np.append(wrong, False)[codes]
    return values.take(at), bad
