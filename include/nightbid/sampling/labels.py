"""Parses labels as logged: flags, texts, amounts, and invalid values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.column_parsing import NULL_TEXTS, encode, whole
from nightbid.counts import are, counted
from nightbid.errors import CorruptDataError
from nightbid.number_parsing import numbers
from nightbid.sampling.plain import plain_array

if TYPE_CHECKING:
    from nightbid.config.pipeline import PipelineSpec

Bools = npt.NDArray[np.bool_]
LARGEST_VALUE = 1e9
"""Largest label of `kind: value`; larger ones are errors in the logs."""
NO_EVENT = tuple({*(text.lower() for text in NULL_TEXTS), "0", "0.0", "false"})
"""Texts in lower case that state no event, for labels of `positive: known`."""
FLAGS = {"0": 0.0, "1": 1.0, "false": 0.0, "true": 1.0}


def flag(
    column: pa.ChunkedArray | pa.Array, texts: Mapping[str, int] = MappingProxyType({})
) -> npt.NDArray[np.float64]:
    """Read a column of flags: 0.0, 1.0, or NaN for other values.

    Supported are booleans and numbers of any type, including decimals; the texts `0`, `1`, `0.0`,
    `1.0`, `true` and `false` in any case; and categories of these. Other values, such as ` 1` or
    `yes`, are NaN.

    Args:
        column: Column of any type.
        texts: Additional texts, in any case → 0 or 1; see `label.texts`.

    Returns:
        The flag of each row, float64 [rows].
    """
    array = plain_array(whole(column))
    kind = array.type
    if pa.types.is_string(kind):
        codes, tokens = encode(array)
        words = pc.replace_substring_regex(pc.utf8_lower(tokens), r"^([01])\.0+$", r"\1")
        known = {**FLAGS, **{text.lower(): float(value) for text, value in texts.items()}}
        table = np.array([known.get(word, np.nan) for word in words.to_pylist()] + [np.nan])
        return np.asarray(table[codes])
    if pa.types.is_boolean(kind):
        array = array.cast(pa.int8())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        return np.full(len(array), np.nan)
    value = np.asarray(pc.fill_null(array.cast(pa.float64(), safe=False), np.nan))
    return np.where((value == 0) | (value == 1), value, np.nan)


def label_of(table: pa.Table | pa.RecordBatch, spec: PipelineSpec) -> npt.NDArray[np.float64]:
    """Read the label according to `label`: 0.0, 1.0, or a value; NaN if it is invalid.

    Args:
        table: Raw columns, including the label's.
        spec: Settings of the pipeline.

    Returns:
        The label of each row, float64 [rows].
    """
    column = table[spec.label.column]
    if spec.label.kind == "value":
        value = numbers(column)
        return np.where((value >= 0) & (value <= LARGEST_VALUE), value, np.nan)
    if spec.label.positive == "one":
        return flag(column, spec.label.texts)
    array = plain_array(whole(column))
    none = nulls(array) | blanks(array)
    if pa.types.is_string(array.type):
        codes, tokens = encode(array)
        none |= np.append(states_no_event(tokens), True)[codes]
    if pa.types.is_boolean(array.type):
        none |= ~np.asarray(pc.fill_null(array, False), bool)
    elif pa.types.is_integer(array.type) or pa.types.is_floating(array.type):
        none |= np.asarray(pc.fill_null(pc.less_equal(array, 0), True))
    elif pa.types.is_decimal(array.type):
        none |= np.asarray(pc.fill_null(pc.less_equal(array.cast(pa.float64()), 0), True))
    labels: npt.NDArray[np.float64] = np.where(none, 0.0, 1.0)
    return labels


def states_no_event(texts: pa.Array) -> Bools:
    """Return which texts are spellings of null, zero or false, bool [texts]."""
    plain = pc.utf8_lower(pc.utf8_trim_whitespace(texts))
    return np.asarray(pc.is_in(plain, pa.array(NO_EVENT)), bool)


def refuse_other_labels(
    column: pa.ChunkedArray, wrong: Bools, spec: PipelineSpec, where: str
) -> None:
    """Raise an error if most labels are invalid, which is no problem of single rows."""
    if wrong.sum() * 2 <= len(wrong):
        return
    values: Sequence[object] = pc.unique(column.filter(pa.array(wrong)).drop_null())[:3].to_pylist()
    bad = int(wrong.sum())
    of = f"{bad:,} of {counted(len(wrong), 'row')} {are(bad)}"
    examples = f"for example {', '.join(map(repr, values)) or 'null'}"
    if spec.label.kind == "value":
        raise CorruptDataError(
            f"label {spec.label.column!r} holds no values: {of} not a number from 0 to"
            f" {LARGEST_VALUE:.0e}, {examples}",
            where=where,
            hint="name a column of amounts in `label.column`",
        )
    raise CorruptDataError(
        f"label {spec.label.column!r} is not binary: {of} neither 0 nor 1, {examples}",
        where=where,
        hint="name a 0/1 column in `label.column`, or map its values:"
        ' `label.texts: {"yes": 1, "no": 0}`; for amounts, set `label.kind: value`',
    )


def nulls(column: pa.ChunkedArray | pa.Array) -> Bools:
    """Bool [rows], true for null and NaN."""
    return np.asarray(pc.is_null(column, nan_is_null=True), bool)


def blanks(column: pa.ChunkedArray) -> Bools:
    """Bool [rows], true for empty strings of a text column."""
    if not pa.types.is_string(column.type):
        return np.zeros(len(column), bool)
    return np.asarray(pc.fill_null(pc.equal(pc.utf8_length(column), 0), False), bool)
