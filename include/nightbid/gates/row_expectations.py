"""Expectations on single rows: the statistics of a profile, evaluated on the rows themselves.

The rows are a stable sample of a day (`nightbid.profile.rows`), or all rows of a small day. A
statistic has the same name, formula and limit as in the profile, so both ways lead to the same
verdict; in addition, the rows give the keys of some unexpected rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from nightbid.config.pipeline import PipelineSpec
from nightbid.counts import counted
from nightbid.gates.associations import after_impression, unproven
from nightbid.gates.column_checks import far, known_values
from nightbid.gates.day_profiles import DayProfile, DayProfiles
from nightbid.gates.drift import beyond_chance, share_error
from nightbid.gates.measurements import Measurements
from nightbid.gates.row_answers import ALIKE, RowRule, answers_of, exact
from nightbid.profile.column import ColumnProfile
from nightbid.schema import KEY, RESERVED, TIME

HOUR_US = 3_600_000_000
EXAMPLES = 3
RISING = (*ALIKE, "new_values")
"""Statistics whose shares vary from day to day without a fault."""
RULE = 0.001
"""Flags that disagree more often than this are treated as unrelated."""


def measure(
    measurements: Measurements,
    sample: pa.Table,
    days: DayProfiles,
    day: DayProfile,
    spec: PipelineSpec,
    *,
    is_whole: bool = True,
) -> None:
    """Evaluate all rules on the sampled rows of a day.

    Args:
        measurements: Measurements to add to, one per rule.
        sample: Sampled rows with raw and reserved columns.
        days: All known days, which define what is usual.
        day: Day that the rows are from.
        spec: Pipeline with the roles of columns.
        is_whole: Whether the rows are from all hours of the day. Rows of a few hours differ from
            those of a day, so their shares are not compared.
    """
    rows = len(sample)
    if rows:
        after_impression(measurements, sample, day, spec)
    if not rows or len(days.all) < 2 or not is_whole:
        return
    plain = {column.name for column in sample.schema if not pa.types.is_nested(column.type)}
    rules = [rule for rule in _rules(days, day, spec) if plain.issuperset(rule.columns)]
    sampled = rows < day.profile.rows
    part = f"{day.name}, {rows:,} {'sampled rows' if sampled else 'rows'}"
    answers = answers_of(sample, rules)
    names = sample[spec.columns.key]
    for rule, answer in zip(rules, answers, strict=True):
        evaluated = max(rows - answer.missing if rule.of_values else rows, 1)
        excess = answer.unexpected / evaluated - rule.usual
        if not rule.exact or sampled:
            drawn = evaluated if rule.of_values else rows
            share = answer.unexpected / evaluated if rule.family in RISING else 0.0
            error = share_error(share, rule.usual, drawn)
            excess = beyond_chance(excess, 0.0, error) - rule.unproven
        note = f"{answer.unexpected:,} of {counted(evaluated, 'row')}"
        if not rule.exact:
            note += f", usually {rule.usual:.2%}"
        if len(answer.where):
            shown = ", ".join(map(str, names.take(answer.where[:EXAMPLES]).to_pylist()))
            note += f"; {spec.columns.key} {shown}"
        measurements.add(rule.family, max(excess, 0.0), subject=rule.subject, part=part, note=note)


def _rules(days: DayProfiles, day: DayProfile, spec: PipelineSpec) -> Iterator[RowRule]:
    """Yield all rules for single rows, in the order of the columns."""
    outside = days.usual(day, lambda other: other.outside / max(other.profile.rows, 1))
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
            profile
            for other in days.others(day)
            if (profile := other.profile.columns.get(name)) is not None and profile.rows
        ]
        if name not in RESERVED and others and column.kind not in ("other", "empty"):
            yield from _column(name, column, others, spec)
    yield from _pairs(days, day)


def _column(
    name: str, column: ColumnProfile, others: Sequence[ColumnProfile], spec: PipelineSpec
) -> Iterator[RowRule]:
    arguments = {"column": name}
    nulls = _median([other.nulls / other.rows for other in others])
    yield RowRule("null_excess", name, "ColumnValuesToNotBeNull", arguments, nulls)
    if column.kind == "text":
        blank = _median([other.blank / other.rows for other in others])
        lengths = {**arguments, "min_value": 1}
        yield RowRule("blank_excess", name, "ColumnValueLengthsToBeBetween", lengths, blank)
    if column.kind == "number":
        wild = _median([(other.nan + other.infinite) / other.rows for other in others])
        finite = {**arguments, "max_value": float(np.finfo(np.float64).max)}
        yield RowRule("nan_excess", name, "ColumnValuesToBeBetween", finite, wild)
        bounds = far(column, others)
        if bounds is not None:
            between = {**arguments, "min_value": bounds[0], "max_value": bounds[1]}
            yield RowRule("out_of_range", name, "ColumnValuesToBeBetween", between, of_values=True)
    filled = [other for other in others if other.values]
    if name not in spec.columns.turnover and filled:
        known = known_values(column, filled)
        if known is not None:
            within = {**arguments, "value_set": sorted(map(exact, known.values), key=str)}
            yield RowRule(
                "new_values", name, "ColumnValuesToBeInSet", within, known.usual, of_values=True
            )


def _pairs(days: DayProfiles, day: DayProfile) -> Iterator[RowRule]:
    """Yield the rules for flags that require another flag and for times in order."""
    for name in day.profile.contradictions:
        shares = [
            other.profile.contradictions[name] / max(other.profile.rows, 1)
            for other in days.others(day)
            if name in other.profile.contradictions
        ]
        if not shares or _median(shares) > RULE:
            continue
        first, word, second = name.partition(" after ")
        if word:
            order = {"column_A": second, "column_B": first}
        else:
            # The flag is 0 where the other is 1. A set of pairs would be evaluated row by row.
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


def _median(values: Sequence[float]) -> float:
    return float(np.median(values)) if values else 0.0
