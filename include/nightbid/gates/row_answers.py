"""Evaluates expectations on single rows together.

In Great Expectations the overhead of an expectation is far larger than the time for its rows. So
equal expectations on many columns are evaluated once, on the concatenated columns: a hundred
expectations become ten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightbid.gates.expectations import RowExpectationResult, ask

if TYPE_CHECKING:
    import pandas as pd

ALIKE = ("null_excess", "nan_excess", "blank_excess")
"""Statistics with the same expectation for every column."""
PAIR = "ColumnPairValuesAToBeGreaterThanB"
NOT_LESS = {"or_equal": True, "ignore_row_if": "either_value_is_missing"}


@dataclass(frozen=True, eq=False)
class RowRule:
    """One expectation on single rows."""

    family: str
    subject: str
    kind: str
    """Class of the expectation, without `Expect`."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    usual: float = 0.0
    """Share of the rows that usually violates the expectation."""
    unproven: float = 0.0
    """Share of the rows to subtract in addition to chance."""
    exact: bool = False
    """Whether the profile compares the share itself, not its excess beyond chance."""
    of_values: bool = False
    """Whether the share refers to the rows with a value instead of all rows."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that the rule is about."""
        names = (self.arguments.get(key) for key in ("column", "column_A", "column_B"))
        return tuple(str(name) for name in names if name is not None)


def answers_of(sample: pa.Table, rules: Sequence[RowRule]) -> list[RowExpectationResult]:
    """Evaluate all rules on the rows.

    Args:
        sample: Rows to evaluate; columns of the rules must not be nested.
        rules: Rules to evaluate.

    Returns:
        One answer per rule. `missing` counts the rows that were not evaluated; `where` is in the
        order of the rows.
    """
    answers: dict[RowRule, RowExpectationResult] = {}
    groups: dict[str, list[RowRule]] = {}
    for rule in rules:
        groups.setdefault(_group(sample, rule), []).append(rule)
    ways: dict[str, Callable[[pa.Table, Sequence[RowRule]], list[RowExpectationResult]]] = {
        "": _one_by_one,
        "out_of_range": _in_range,
        "new_values": _in_sets,
        "contradictions": _in_order,
    }
    for group, some in groups.items():
        answers.update(zip(some, ways.get(group, _alike)(sample, some), strict=True))
    return [answers[rule] for rule in rules]


def exact(value: object) -> object:
    """Convert a whole number to an integer, since large numbers would be rounded as floats."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _group(sample: pa.Table, rule: RowRule) -> str:
    """Get the group in which a rule is evaluated; empty if it is evaluated alone."""
    if rule.family in ALIKE:
        return rule.family
    types = [_decoded(sample[name].type) for name in rule.columns]
    if rule.family in ("out_of_range", "contradictions") and all(map(_is_number, types)):
        return rule.family
    if rule.family == "new_values" and all(_is_number(kind) or _is_text(kind) for kind in types):
        return rule.family
    return ""


def _one_by_one(sample: pa.Table, rules: Sequence[RowRule]) -> list[RowExpectationResult]:
    import pandas as pd

    names = sorted({name for rule in rules for name in rule.columns})
    frame = pd.DataFrame({name: _finite(sample[name]) for name in names})
    return ask(frame, [(rule.kind, rule.arguments) for rule in rules])


def _alike(sample: pa.Table, rules: Sequence[RowRule]) -> list[RowExpectationResult]:
    """Evaluate the same expectation for several columns."""
    import pandas as pd

    columns = [_logged(sample[rule.subject]) for rule in rules]
    long = pd.DataFrame({"value": pd.concat(columns, ignore_index=True)})
    arguments = {**rules[0].arguments, "column": "value"}
    (together,) = ask(long, [(rules[0].kind, arguments)])
    return list(_apart(together.where, [0] * len(rules), len(sample)))


def _in_range(sample: pa.Table, rules: Sequence[RowRule]) -> list[RowExpectationResult]:
    """Compare each value with the bounds of its column, which are in adjacent columns."""
    import pandas as pd

    values = [_numbers(sample[rule.subject]) for rule in rules]
    bounds = [(rule.arguments["min_value"], rule.arguments["max_value"]) for rule in rules]
    low, high = (
        np.repeat(np.array(limits, float), len(sample)) for limits in zip(*bounds, strict=True)
    )
    long = pd.DataFrame({"value": np.concatenate(values), "low": low, "high": high})
    below, above = ask(
        long,
        [
            (PAIR, {"column_A": "value", "column_B": "low", **NOT_LESS}),
            (PAIR, {"column_A": "high", "column_B": "value", **NOT_LESS}),
        ],
    )
    missing = [int(np.isnan(column).sum()) for column in values]
    return list(_apart(np.union1d(below.where, above.where), missing, len(sample)))


def _in_order(sample: pa.Table, rules: Sequence[RowRule]) -> list[RowExpectationResult]:
    """Compare pairs of columns."""
    import pandas as pd

    sides = [[_numbers(sample[name]) for name in rule.columns] for rule in rules]
    first, second = (np.concatenate(side) for side in zip(*sides, strict=True))
    long = pd.DataFrame({"first": first, "second": second})
    (together,) = ask(long, [(PAIR, {"column_A": "first", "column_B": "second", **NOT_LESS})])
    missing = [int((np.isnan(one) | np.isnan(other)).sum()) for one, other in sides]
    return list(_apart(together.where, missing, len(sample)))


def _in_sets(sample: pa.Table, rules: Sequence[RowRule]) -> list[RowExpectationResult]:
    """Look up each value in the set of its column, as text with the number of the column."""
    import pandas as pd

    columns: list[pa.ChunkedArray] = []
    known: list[str] = []
    for at, rule in enumerate(rules):
        values = _texts(sample[rule.subject])
        columns.append(pc.binary_join_element_wise(str(at), values, ":"))
        known.extend(f"{at}:{exact(value)}" for value in rule.arguments["value_set"])
    long = pd.DataFrame({"value": pa.chunked_array(columns, pa.string()).to_pandas()})
    question = ("ColumnValuesToBeInSet", {"column": "value", "value_set": known})
    (together,) = ask(long, [question])
    missing = [column.null_count for column in columns]
    return list(_apart(together.where, missing, len(sample)))


def _apart(
    where: NDArray[np.int64], missing: Sequence[int], rows: int
) -> Iterator[RowExpectationResult]:
    """Split the findings in concatenated columns by column."""
    column, row = np.divmod(where, rows)
    for at, without in enumerate(missing):
        lines = row[column == at]
        yield RowExpectationResult(len(lines), without, lines)


def _decoded(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_number(kind: pa.DataType) -> bool:
    """Whether doubles represent the type's values; microseconds of present dates fit."""
    types = pa.types
    return any(
        is_kind(kind)
        for is_kind in (
            *(types.is_boolean, types.is_integer, types.is_floating, types.is_decimal),
            types.is_timestamp,
        )
    )


def _is_text(kind: pa.DataType) -> bool:
    return any(
        is_kind(kind)
        for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    )


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Convert values to types that Great Expectations can compare: times to microseconds."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64())
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    return column


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Convert a column to doubles, with NaN for all values that are not finite numbers."""
    column = _plain(column)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    values = np.array(column.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
    values[~np.isfinite(values)] = np.nan
    return values


def _texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Convert values to text, nulls stay null; whole numbers of any type become integers."""
    column = _plain(column)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    if not pa.types.is_floating(column.type):
        return column.cast(pa.string())
    distinct, place = np.unique(_numbers(column), return_inverse=True)
    texts = [None if np.isnan(value) else str(exact(value)) for value in distinct.tolist()]
    return pa.chunked_array([pa.array(texts, pa.string()).take(pa.array(place))])


def _logged(column: pa.ChunkedArray) -> pd.Series[Any]:
    """Convert values to pandas.

    NaN is not null here but a value that is not finite, as in a profile.
    """
    column = _plain(column)
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), float("inf"), column)
    # With nulls, pandas would convert integers to floats.
    values: pd.Series[Any] = column.to_pandas(integer_object_nulls=_has_large(column))
    return values


def _has_large(column: pa.ChunkedArray) -> bool:
    if not pa.types.is_integer(column.type) or not column.null_count:
        return False
    bounds = pc.min_max(column).as_py()
    return any(bound is not None and abs(bound) > 2**53 for bound in bounds.values())


def _finite(column: pa.ChunkedArray) -> pd.Series[Any]:
    """Convert values to pandas, with null for values that are not finite."""
    values = _logged(column)
    return values.where(~np.isinf(values)) if pa.types.is_floating(column.type) else values
