"""Counts the values of a column that cannot be read as numbers or times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.column_parsing import NULL_TEXTS, encode, whole
from nightbid.number_parsing import numbers
from nightbid.time_parsing import as_time


@dataclass(frozen=True)
class Unreadable:
    """Number of values of a column that a feature cannot read, with an example."""

    values: int = 0
    known: int = 0
    """Number of values that are not missing."""
    example: str = ""

    def __add__(self, other: Unreadable) -> Unreadable:
        examples = sorted(example for example in (self.example, other.example) if example)
        return Unreadable(
            self.values + other.values, self.known + other.known, "".join(examples[:1])
        )


def unreadable(column: pa.ChunkedArray | pa.Array, kind: Literal["number", "time"]) -> Unreadable:
    """Count the values that `numbers` or `as_time` cannot read.

    Null, NaN, the empty text and the usual spellings of null (`NULL_TEXTS`) are missing, not
    unreadable.
    """
    codes, tokens, known, wrong = _checked(column, kind)
    counts = np.bincount(codes[codes >= 0], minlength=len(tokens))
    examples = [str(token) for token in tokens.filter(pa.array(wrong)).slice(0, 1000).to_pylist()]
    return Unreadable(
        int(counts[wrong].sum()), int(counts[known].sum()), min(examples, default="")[:60]
    )


def unreadable_rows(
    column: pa.ChunkedArray | pa.Array, kind: Literal["number", "time"]
) -> npt.NDArray[np.bool_]:
    """Get a mask of the rows that `unreadable` counts: bool [rows]."""
    codes, _, _, wrong = _checked(column, kind)
    return np.append(wrong, False)[codes]


def _checked(
    column: pa.ChunkedArray | pa.Array, kind: Literal["number", "time"]
) -> tuple[npt.NDArray[np.int32], pa.Array, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Get row codes (-1: missing), distinct values, and masks of the known and unreadable ones."""
    array = whole(column)
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    codes, tokens = (
        encode(array)
        if pa.types.is_string(array.type) or pa.types.is_large_string(array.type)
        else (np.arange(len(array), dtype=np.int32), array)
    )
    known = np.asarray(pc.invert(pc.is_null(tokens, nan_is_null=True)), bool)
    if tokens is not array:
        known &= ~np.asarray(pc.is_in(pc.utf8_trim_whitespace(tokens), pa.array(NULL_TEXTS)), bool)
    read = ~np.isnan(numbers(tokens)) if kind == "number" else pc.is_valid(as_time(tokens))
    return codes, tokens, known, known & ~np.asarray(read, bool)
