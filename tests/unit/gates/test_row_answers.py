"""Rules that are evaluated together give the same answers as each rule alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nightbid.gates.expectations import RowExpectationResult
from nightbid.gates.row_answers import RowRule, answers_of

BETWEEN, WITHIN = "ColumnValuesToBeBetween", "ColumnValuesToBeInSet"
ORDER = "ColumnPairValuesAToBeGreaterThanB"
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


def between(name: str, low: float, high: float) -> RowRule:
    return RowRule(
        "out_of_range", name, BETWEEN, {"column": name, "min_value": low, "max_value": high}
    )


def within(name: str, *values: Any) -> RowRule:
    return RowRule("new_values", name, WITHIN, {"column": name, "value_set": list(values)})


def order(first: str, second: str) -> RowRule:
    arguments = {"column_A": first, "column_B": second, "or_equal": True}
    return RowRule(
        "contradictions",
        f"{second} without {first}",
        ORDER,
        {**arguments, "ignore_row_if": "either_value_is_missing"},
    )


def rows_of(answers: list[RowExpectationResult]) -> list[list[int]]:
    return [sorted(answer.where.tolist()) for answer in answers]


def alone(table: pa.Table, rules: list[RowRule]) -> list[RowExpectationResult]:
    """Evaluate the same rules one at a time, each in a family of its own."""
    return [answers_of(table, [replace(rule, family="alone")])[0] for rule in rules]


@pytest.fixture
def table() -> pa.Table:
    return pa.table(
        {
            "age": pa.array([18, 35, None, 900, -3], pa.int16()),
            "price": pa.array([0.5, float("nan"), None, 2.5, float("inf")], pa.float32()),
            "level": pa.array([1.0, 2.0, 2.5, None, -0.0], pa.float64()),
            "fee": pa.array([Decimal("1.10"), None, Decimal("2.00"), None, Decimal("9.99")]),
            "tab": pa.array(["1", "11", None, "", "10"]).dictionary_encode(),
            "city": pa.array(["New York", "new york", "São Paulo", None, "x:y"], pa.large_string()),
            "id": pa.array([2**60, 2**60 + 1, None, 5, 6], pa.int64()),
            "click": pa.array([True, False, None, True, False]),
            "long_view": pa.array([True, True, True, None, False]),
            "shown": pa.array([NOON, NOON, None, NOON, NOON], pa.timestamp("us", "UTC")),
            "seen": pa.array(
                [NOON, NOON - timedelta(microseconds=1), NOON, None, NOON + timedelta(days=1)],
                pa.timestamp("ns", "UTC"),
            ),
        }
    )


RULES = [
    between("age", 0.0, 120.0),
    between("price", 0.0, 2.0),
    between("fee", 0.0, 9.0),
    within("age", 18, 35),
    within("level", 0, 2.5),
    within("tab", "1", "10"),
    within("city", "New York", "São Paulo"),
    within("id", 2**60, 5),
    within("click", 1),
    order("long_view", "click"),
    order("seen", "shown"),
]


def test_rules_evaluated_together_match_rules_evaluated_alone(table: pa.Table) -> None:
    together, each = answers_of(table, RULES), alone(table, RULES)
    assert rows_of(together) == rows_of(each)
    assert [answer.unexpected for answer in together] == [len(answer.where) for answer in together]
    assert [answer.missing for answer in together] == [answer.missing for answer in each]


def test_rules_find_the_expected_rows(table: pa.Table) -> None:
    named = dict(
        zip((rule.subject for rule in RULES), rows_of(answers_of(table, RULES)), strict=True)
    )
    assert named["price"] == [3]
    assert named["level"] == [0, 1]
    assert named["tab"] == [1, 3]
    assert named["city"] == [1, 4]
    # Two integers above 2 ** 53 differ by one; doubles there are even.
    assert named["id"] == [1, 4]
    assert named["shown without seen"] == [1]


@settings(max_examples=15)
@given(
    data=st.lists(
        st.tuples(
            st.none() | st.integers(-(2**40), 2**40),
            st.none() | st.floats(width=32),
            st.none() | st.text(max_size=3),
            st.none() | st.integers(0, 1),
        ),
        min_size=1,
        max_size=30,
    ),
    known=st.integers(0, 30),
    bounds=st.tuples(st.floats(-1e6, 0), st.floats(0, 1e6)),
)
def test_rules_evaluated_together_match_for_random_rows(
    data: list[tuple[Any, ...]], known: int, bounds: tuple[float, float]
) -> None:
    columns = list(zip(*data, strict=True))
    types = (pa.int64(), pa.float32(), pa.string(), pa.int8())
    arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
    table = pa.table(arrays, ["i", "f", "t", "b"])
    sets = [
        sorted({value for value in column[:known] if value is not None and value == value}, key=str)
        for column in columns
    ]
    finite = [float(np.float32(value)) for value in sets[1] if np.isfinite(value)]
    rules = [
        *(between(name, *bounds) for name in ("i", "f", "b")),
        *(
            within(name, *values)
            for name, values in zip("ift", (sets[0], finite, sets[2]), strict=True)
        ),
        order("b", "i"),
        order("f", "i"),
    ]
    together, each = answers_of(table, rules), alone(table, rules)
    assert rows_of(together) == rows_of(each)
    assert [answer.missing for answer in together] == [answer.missing for answer in each]
