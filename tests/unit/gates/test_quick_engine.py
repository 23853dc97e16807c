"""The replaced methods of Great Expectations return what its own methods return."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
from nightbid.gates.expectations import ask
from nightbid.gates.quick_engine import batch_of, without_fingerprint

FRAME = pd.DataFrame({"a": [1.0, 5.0, None], "b": [2, 2, 9]})
COMPLETE = {"result_format": "COMPLETE", "unexpected_index_column_names": ["a"]}


@pytest.fixture(scope="module", autouse=True)
def replaced() -> None:
    batch_of(FRAME)


@pytest.mark.parametrize("runtime", [None, {}, {"result_format": COMPLETE}], ids=str)
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ColumnValuesToBeBetween", {"column": "a", "max_value": 3, "severity": "warning"}),
        ("ColumnValuesToBeInSet", {"column": "a", "value_set": [1, 5], "mostly": 0.9}),
        ("ColumnPairValuesAToBeGreaterThanB", {"column_A": "a", "column_B": "b"}),
    ],
)
def test_arguments_equal_those_of_the_library(
    name: str, arguments: dict[str, Any], runtime: dict[str, Any] | None
) -> None:
    import great_expectations.expectations as gxe

    expectation = getattr(gxe, f"Expect{name}")(**arguments, meta={"rule": 7})
    method = type(expectation)._get_runtime_kwargs
    ours, theirs = method(expectation, runtime), method.__wrapped__(expectation, runtime)
    assert list(ours.items()) == list(theirs.items())


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"a": None},
        {"column": "a", "table": None, "strict": True, "least": 3, "most": 0.1, "text": "é"},
        {"a": float("nan"), "b": float("inf")},
        {"a": np.float64(0.1), "b": np.int64(2), "c": None},
        {"a": (1, 2), "b": [{"c": [None, 1.5]}], "d": {1: "x"}},
        {"a": datetime(2026, 1, 1, tzinfo=UTC), "b": {"x", }},
    ],
    ids=str,
)  # fmt: skip
def test_identifiers_equal_those_of_the_library(values: dict[str, Any]) -> None:
    from great_expectations.core.id_dict import IDDict

    method = IDDict.to_id
    assert method(IDDict(values)) == method.__wrapped__(IDDict(values))
    for keys in (["a"], ["a", "b"]):
        if set(keys) <= set(values):
            assert method(IDDict(values), keys) == method.__wrapped__(IDDict(values), keys)


def test_threads_do_not_see_each_others_rows() -> None:
    def unexpected(count: int) -> int:
        rows = pd.DataFrame({"a": np.arange(count)})
        question = ("ColumnValuesToBeBetween", {"column": "a", "max_value": 4})
        return ask(rows, [question])[0].unexpected

    counts = list(range(6, 30))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(unexpected, counts)) == [count - 5 for count in counts]


def test_fingerprint_is_that_of_the_library_unless_it_is_left_out() -> None:
    import great_expectations.execution_engine.pandas_execution_engine as engine

    fingerprint = engine.hash_pandas_dataframe
    assert fingerprint(FRAME) == fingerprint.__wrapped__(FRAME)
    with without_fingerprint():
        assert fingerprint(FRAME) == ""
    assert fingerprint(FRAME) == fingerprint.__wrapped__(FRAME)
