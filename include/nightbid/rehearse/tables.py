"""Compares two Parquet outputs value by value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from nightbid.schema import KEY

EXAMPLES = 3


class ColumnDifference(BaseModel):
    """Differences between the values of a column."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    column: str
    rows: int
    of_rows: int
    largest: float
    """Largest absolute difference; infinite where a value is missing on one side only."""
    relative: float
    """Largest difference relative to the value."""
    is_float: bool
    examples: tuple[str, ...]
    """Examples: keys of rows with both values."""


def compare_files(before: Path, after: Path, names: list[str]) -> list[ColumnDifference]:
    """Compare files with the same names in two folders, column by column.

    Columns or rows that one side lacks count as different in all rows.
    """
    differences: dict[str, list[ColumnDifference]] = {}
    for name in names:
        one = pq.read_table(before / name, partitioning=None)
        two = pq.read_table(after / name, partitioning=None)
        for difference in _compare(one, two, name):
            differences.setdefault(difference.column, []).append(difference)
    return [
        ColumnDifference(
            column=column,
            rows=sum(part.rows for part in parts),
            of_rows=sum(part.of_rows for part in parts),
            largest=max(part.largest for part in parts),
            relative=max(part.relative for part in parts),
            is_float=parts[0].is_float,
            examples=tuple(example for part in parts for example in part.examples)[:EXAMPLES],
        )
        for column, parts in differences.items()
    ]


def _compare(one: pa.Table, two: pa.Table, name: str) -> list[ColumnDifference]:
    if len(one) != len(two):
        return [_all_rows("(rows)", max(len(one), len(two)), f"{name}: {len(one)}, {len(two)}")]
    keys = one[KEY].to_numpy() if KEY in one.column_names else np.arange(len(one))
    differences = []
    for column in dict.fromkeys([*one.column_names, *two.column_names]):
        if column not in one.column_names or column not in two.column_names:
            side = "present" if column in one.column_names else "candidate"
            differences.append(_all_rows(column, len(one), f"{name}: on the {side} side only"))
        elif one[column].combine_chunks().equals(two[column].combine_chunks()):
            continue
        else:
            difference = _column(column, one[column], two[column], keys)
            differences.extend([difference] if difference else [])
    return differences


def _all_rows(column: str, rows: int, example: str) -> ColumnDifference:
    return ColumnDifference(
        column=column, rows=rows, of_rows=rows, largest=np.inf, relative=np.inf, is_float=False,
        examples=(example,),
    )  # fmt: skip


def _column(
    name: str, one: pa.ChunkedArray, two: pa.ChunkedArray, keys: npt.NDArray[np.generic]
) -> ColumnDifference | None:
    a, b = one.combine_chunks(), two.combine_chunks()
    rows, count = np.arange(len(a)), len(a)
    if _is_list(a.type) and _is_list(b.type):
        lengths = pc.list_value_length(a).fill_null(-1)
        if not lengths.equals(pc.list_value_length(b).fill_null(-1)):
            other = np.flatnonzero(
                lengths.to_numpy(zero_copy_only=False)
                != pc.list_value_length(b).fill_null(-1).to_numpy(zero_copy_only=False)
            )
            return ColumnDifference(
                column=name, rows=len(other), of_rows=count, largest=np.inf, relative=np.inf,
                is_float=False,
                examples=tuple(f"row {keys[at]}: lists of other lengths" for at in other[:3]),
            )  # fmt: skip
        rows = np.repeat(rows, np.maximum(lengths.to_numpy(zero_copy_only=False), 0))
        a, b = a.flatten(), b.flatten()
    is_float = pa.types.is_floating(a.type)
    if not (_is_number(a.type) and _is_number(b.type)):
        wrong = np.array([x != y for x, y in zip(a.to_pylist(), b.to_pylist(), strict=True)])
        distance = np.where(wrong, np.inf, 0.0)
        left, right = np.asarray(a.to_pylist(), object), np.asarray(b.to_pylist(), object)
        scale = np.ones(len(wrong))
    else:
        left = a.to_numpy(zero_copy_only=False).astype(np.float64)
        right = b.to_numpy(zero_copy_only=False).astype(np.float64)
        both = np.isnan(left) & np.isnan(right)
        with np.errstate(invalid="ignore"):
            distance = np.where(both | (left == right), 0.0, np.abs(right - left))
        distance = np.where(np.isnan(distance), np.inf, distance)
        wrong = distance > 0
        scale = np.maximum(np.abs(np.nan_to_num(left)), np.finfo(np.float64).tiny)
    at = np.flatnonzero(wrong)
    if not len(at):
        return None  # the same values with another type or encoding
    changed = np.unique(rows[at])
    return ColumnDifference(
        column=name,
        rows=len(changed),
        of_rows=count,
        largest=float(distance.max()),
        relative=float(np.max(distance[at] / scale[at])),
        is_float=is_float,
        examples=tuple(f"row {keys[rows[i]]}: {left[i]} → {right[i]}" for i in at[:EXAMPLES]),
    )


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    )


class PredictionDifference(BaseModel):
    """Differences between two predictions for the same rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int
    changed: int
    """Number of rows whose predictions differ."""
    largest: float
    mean: float
    rankings: int
    """Number of users with at least two rows."""
    rankings_changed: int
    """Number of these users whose rows are in another order."""

    @property
    def share(self) -> float:
        """Get the share of rankings that change."""
        return self.rankings_changed / self.rankings if self.rankings else 0.0


def compare_predictions(
    before: npt.NDArray[np.float64],
    after: npt.NDArray[np.float64],
    users: npt.NDArray[np.int64],
) -> PredictionDifference:
    """Compare predictions row by row; all arguments are [rows]."""
    distance = np.abs(after - before)
    _, group, sizes = np.unique(users, return_inverse=True, return_counts=True)
    orders = [np.lexsort((scores, group)) for scores in (before, after)]
    several = sizes[group[orders[0]]] > 1
    other = np.unique(group[orders[0]][several & (orders[0] != orders[1])])
    return PredictionDifference(
        rows=len(before),
        changed=int((distance > 0).sum()),
        largest=float(distance.max(initial=0.0)),
        mean=float(distance.mean()) if len(distance) else 0.0,
        rankings=int((sizes > 1).sum()),
        rankings_changed=len(other),
    )
