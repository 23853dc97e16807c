"""Slices: groups of rows by a column of the logs, one per frequent value or quantile range."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.errors import ConfigError

OTHER = "(other)"
MISSING = "(missing)"
QUANTILES = 5
_FEW = 12


@dataclass(frozen=True)
class Slice:
    """Rows that share a value of a column."""

    column: str
    value: str
    rows: npt.NDArray[np.bool_]
    """[rows] whether each row belongs to the slice."""


def slices_of(table: pa.Table, columns: tuple[str, ...], most: int) -> Iterator[Slice]:
    """Slice rows by each column.

    Args:
        table: [rows] table with the columns.
        columns: Columns to slice by, in this order.
        most: Maximum number of frequent values per column with their own slice.

    Raises:
        ConfigError: A column is not in the logs, or contains lists.
    """
    for name in columns:
        if name not in table.column_names:
            raise ConfigError(
                f"no column {name!r} in the logs to slice by",
                where="evaluate.slices",
                hint=_suggestion(name, table.column_names),
            )
        yield from _of_column(name, table[name].combine_chunks(), most)


def _of_column(name: str, column: pa.Array, most: int) -> Iterator[Slice]:
    if pa.types.is_nested(column.type):
        raise ConfigError(
            f"column {name!r} holds {column.type}",
            where="evaluate.slices",
            hint="slice by a column of single values",
        )
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_temporal(column.type) and not pa.types.is_date(column.type):
        column = (
            pc.strftime(column, format="%H h") if pa.types.is_timestamp(column.type) else column
        )
    numeric = pa.types.is_floating(column.type) or pa.types.is_integer(column.type)
    if numeric and pc.count_distinct(column).as_py() > max(_FEW, most):
        if pa.types.is_floating(column.type):
            yield from _of_numbers(name, column)
            return
        distinct = pc.count_distinct(column).as_py()
        # Ids repeat, measurements rarely do. Ids get slices by value, measurements by quantile.
        if distinct > most * 50 or distinct > len(column) / 2:
            yield from _of_numbers(name, column)
            return
    text = pc.fill_null(column.cast(pa.string()), MISSING)
    encoded = text.dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    values = encoded.dictionary.to_pylist()
    counts = np.bincount(codes, minlength=len(values))
    # Break ties by name, so that the order of the rows does not matter.
    order = sorted(range(len(values)), key=lambda code: (-counts[code], values[code]))
    largest = order[:most]
    for code in largest:
        yield Slice(name, values[code], codes == code)
    if len(order) > most:
        yield Slice(name, OTHER, ~np.isin(codes, largest))


def _of_numbers(name: str, column: pa.Array) -> Iterator[Slice]:
    missing = column.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
    values = pc.fill_null(column.cast(pa.float64()), 0.0).to_numpy(zero_copy_only=False)
    cuts = np.unique(np.quantile(values[~missing], np.arange(1, QUANTILES) / QUANTILES))
    part = np.searchsorted(cuts, values, side="right")
    for index in range(len(cuts) + 1):
        low = f"{cuts[index - 1]:g}" if index else ""
        high = f"{cuts[index]:g}" if index < len(cuts) else ""
        label = f"{low} to {high}" if low and high else f"under {high}" if high else f"{low} and up"
        rows = (part == index) & ~missing
        if rows.any():
            yield Slice(name, label, rows)
    if missing.any():
        yield Slice(name, MISSING, missing)


def _suggestion(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"columns: {', '.join(known)}"
