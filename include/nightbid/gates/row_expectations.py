"""Expectations on single rows: what a profile counts, asked of the rows themselves.

The rows are a stable sample of a day (`nightbid.profile.rows`), all of them on a small one. A
statistic has the same name, the same formula and the same limit as in the profile, so both ways
lead to one verdict; the rows add which ones: the keys of some that are not as expected.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.config.pipeline import PipelineSpec
from nightbid.gates.associations import after_impression, unproven
from nightbid.gates.column_checks import far, known_values
from nightbid.gates.day_profiles import Day, Days
from nightbid.gates.drift import beyond_chance
from nightbid.gates.expectations import Answer, ask
from nightbid.gates.measurements import Measurements
from nightbid.profile.column import ColumnProfile
from nightbid.schema import KEY, RESERVED, TIME

HOUR_US = 3_600_000_000
EXAMPLES = 3
ALIKE = ("null_excess", "nan_excess", "blank_excess")
"""Statistics that ask the same of every column."""
RULE = 0.001
"""Flags that disagree more often than this are treated as unrelated."""


@dataclass(frozen=True, eq=False)
class RowRule:
    """One expectation on single rows."""

    family: str
    subject: str
    kind: str
    """Class of the expectation, without `Expect`."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    usual: float = 0.0
    """Share of the rows that usually does not meet it."""
    unproven: float = 0.0
    """Share of the rows that is taken off beside chance."""
    exact: bool = False
    """Whether the profile compares the share itself, not what is beyond chance."""
    of_values: bool = False
    """Whether the share is one of the rows that have a value."""

    @property
    def columns(self) -> set[str]:
        """What it asks about."""
        names = (self.arguments.get(each) for each in ("column", "column_A", "column_B"))
        return {str(name) for name in names if name is not None}


def measure(
    measurements: Measurements,
    sample: pa.Table,
    days: Days,
    day: Day,
    spec: PipelineSpec,
    *,
    is_whole: bool = True,
) -> None:
    """Ask every rule of a day's sampled rows.

    Args:
        measurements: gets one figure per rule.
        sample: raw and reserved columns.
        days: what is usual.
        day: of the sample.
        spec: the roles of columns.
        is_whole: whether they are of all its hours. Those of some differ from a day by what hours
            are, so no share of them is compared.
    """
    rows = len(sample)
    if rows:
        after_impression(measurements, sample, day, spec)
    if not rows or len(days.all) < 2 or not is_whole:
        return
    plain = {each.name for each in sample.schema if not pa.types.is_nested(each.type)}
    rules = [each for each in _rules(days, day, spec) if each.columns <= plain]
    sampled = rows < day.profile.rows
    part = f"{day.name}, {rows:,} {'sampled rows' if sampled else 'rows'}"
    answers = _answers(sample, rules)
    names = sample[spec.columns.key]
    for rule, answer in zip(rules, answers, strict=True):
        asked = max(rows - answer.missing if rule.of_values else rows, 1)
        excess = answer.unexpected / asked - rule.usual
        if not rule.exact or sampled:
            drawn = asked if rule.of_values else rows
            error = math.sqrt(max(rule.usual * (1 - rule.usual), 1 / drawn) / drawn)
            excess = beyond_chance(excess, 0.0, error) - rule.unproven
        note = f"{answer.unexpected:,} of {asked:,} rows, usually {rule.usual:.2%}"
        if len(answer.where):
            shown = ", ".join(map(str, names.take(answer.where[:EXAMPLES]).to_pylist()))
            note += f"; {spec.columns.key} {shown}"
        measurements.add(rule.family, max(excess, 0.0), subject=rule.subject, part=part, note=note)


def _answers(sample: pa.Table, rules: Sequence[RowRule]) -> list[Answer]:
    """Ask every rule.

    An expectation takes Great Expectations far longer than its rows do. What is asked alike of
    many columns is therefore asked once, of the columns laid end to end.
    """
    answers: dict[RowRule, Answer] = {}
    alike: dict[str, list[RowRule]] = {}
    for rule in rules:
        alike.setdefault(rule.family if rule.family in ALIKE else "", []).append(rule)
    for family, some in alike.items():
        if not family:
            names = {name for each in some for name in each.columns}
            frame = pd.DataFrame({name: _finite(sample[name]) for name in sorted(names)})
            found = ask(frame, [(each.kind, each.arguments) for each in some])
            answers.update(zip(some, found, strict=True))
            continue
        columns = [_logged(sample[each.subject]) for each in some]
        long = pd.DataFrame({"value": pd.concat(columns, ignore_index=True)})
        (together,) = ask(long, [(some[0].kind, {**some[0].arguments, "column": "value"})])
        column, row = np.divmod(together.where, len(sample))
        for at, each in enumerate(some):
            lines = row[column == at]
            answers[each] = Answer(len(lines), 0, lines)
    return [answers[rule] for rule in rules]


def _rules(days: Days, day: Day, spec: PipelineSpec) -> Iterator[RowRule]:
    """Everything that is asked of single rows, in the order of the columns."""
    outside = days.usual(day, lambda each: each.outside / max(each.profile.rows, 1))
    yield RowRule(
        "duplicates",
        "",
        "ColumnProportionOfUniqueValuesToBeBetween",
        {"column": KEY, "min_value": 1},
        exact=True,
    )
    yield RowRule(
        "outside_day",
        "",
        "ColumnValuesToBeBetween",
        {"column": TIME, "min_value": day.start * HOUR_US, "max_value": day.end * HOUR_US - 1},
        usual=outside or 0.0,
    )
    for name, column in day.profile.columns.items():
        others = [
            found
            for each in days.others(day)
            if (found := each.profile.columns.get(name)) is not None and found.rows
        ]
        if name not in RESERVED and others and column.kind not in ("other", "empty"):
            yield from _column(name, column, others, spec)
    yield from _pairs(days, day)


def _column(
    name: str, column: ColumnProfile, others: Sequence[ColumnProfile], spec: PipelineSpec
) -> Iterator[RowRule]:
    here = {"column": name}
    nulls = _median([each.nulls / each.rows for each in others])
    yield RowRule("null_excess", name, "ColumnValuesToNotBeNull", here, nulls)
    if column.kind == "text":
        blank = _median([each.blank / each.rows for each in others])
        lengths = {**here, "min_value": 1}
        yield RowRule("blank_excess", name, "ColumnValueLengthsToBeBetween", lengths, blank)
    if column.kind == "number":
        wild = _median([(each.nan + each.infinite) / each.rows for each in others])
        finite = {**here, "max_value": float(np.finfo(np.float64).max)}
        yield RowRule("nan_excess", name, "ColumnValuesToBeBetween", finite, wild)
        bounds = far(column, others)
        if bounds is not None:
            between = {**here, "min_value": bounds[0], "max_value": bounds[1]}
            yield RowRule("out_of_range", name, "ColumnValuesToBeBetween", between, of_values=True)
    filled = [each for each in others if each.values]
    if name not in spec.columns.turnover and filled:
        known = known_values(column, filled)
        if known is not None:
            values = sorted(map(_exact, known.values), key=str)
            within = {**here, "value_set": values}
            yield RowRule(
                "new_values", name, "ColumnValuesToBeInSet", within, known.usual, of_values=True
            )


def _pairs(days: Days, day: Day) -> Iterator[RowRule]:
    """Flags that need another, times that come after another."""
    for name in day.profile.contradictions:
        shares = [
            each.profile.contradictions[name] / max(each.profile.rows, 1)
            for each in days.others(day)
            if name in each.profile.contradictions
        ]
        if not shares or _median(shares) > RULE:
            continue
        first, word, second = name.partition(" after ")
        if word:
            order = {"column_A": second, "column_B": first}
        else:
            # Of flags, 0 where the other is 1. As a set of pairs, it would be asked row by row.
            first, _, second = name.partition(" without ")
            order = {"column_A": second, "column_B": first}
        yield RowRule(
            "contradictions",
            name,
            "ColumnPairValuesAToBeGreaterThanB",
            {**order, "or_equal": True, "ignore_row_if": "either_value_is_missing"},
            _median(shares),
            unproven(days, day, name),
        )


def _exact(value: object) -> object:
    """Write a whole number as an integer: among floats, large ones would be rounded."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _logged(column: pa.ChunkedArray) -> pd.Series[Any]:
    """Give values as Great Expectations can compare them.

    Times become microseconds. NaN is no null here, as in a profile: it is not finite.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64())
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), float("inf"), column)
    # With nulls pandas would make floats of integers.
    values: pd.Series[Any] = column.to_pandas(integer_object_nulls=_has_large(column))
    return values


def _has_large(column: pa.ChunkedArray) -> bool:
    if not pa.types.is_integer(column.type) or not column.null_count:
        return False
    bounds = pc.min_max(column).as_py()
    return any(each is not None and abs(each) > 2**53 for each in bounds.values())


def _finite(column: pa.ChunkedArray) -> pd.Series[Any]:
    """The same, without what is not finite: ranges and sets are those of numbers."""
    values = _logged(column)
    return values.where(~np.isinf(values)) if pa.types.is_floating(column.type) else values


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else 0.0
