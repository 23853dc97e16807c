"""A gate judges a mergeable profile; Great Expectations on the rows themselves must agree."""

from __future__ import annotations

from datetime import date

import great_expectations as gx
import great_expectations.expectations as gxe
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from nightbid.config.gates import Gates
from nightbid.gates.facts import Facts
from nightbid.gates.judge import judge
from nightbid.profile import Profile

ROWS = 4000
LIMITS = Gates.model_validate(
    {
        "raw": {
            "rows": {"stop": [3000, 5000]},
            "null_excess": {"stop": [None, 0.03]},
            "duplicates": {"stop": [None, 0.01]},
            "out_of_range": {"stop": [None, 0.002]},
            "new_values": {"stop": [None, 0.05]},
        }
    }
)


def rows(fault: str) -> pd.DataFrame:
    random = np.random.default_rng(4)
    frame = pd.DataFrame(
        {
            "nb_key": random.integers(0, 2**60, ROWS),
            "platform": random.choice(["ios", "android", "web"], ROWS),
            "price": random.uniform(1, 2, ROWS),
        }
    )
    some = random.random(ROWS)
    if fault == "nulls":
        frame["platform"] = frame["platform"].where(some > 0.1)
    if fault == "a few nulls":
        frame["platform"] = frame["platform"].where(some > 0.01)
    if fault == "duplicates":
        frame.loc[some < 0.05, "nb_key"] = frame["nb_key"].iloc[0]
    if fault == "prices":
        frame.loc[some < 0.01, "price"] = 5000.0
    if fault == "a new value":
        frame.loc[some < 0.2, "platform"] = "tv"
    if fault == "half a day":
        frame = frame[: ROWS // 2]
    return frame


def by_rows(frame: pd.DataFrame) -> set[str]:
    """Statistics that stop, with expectations on every row."""
    batch = (
        gx.get_context(mode="ephemeral")
        .data_sources.add_pandas("rows")
        .add_dataframe_asset("day")
        .add_batch_definition_whole_dataframe("all")
        .get_batch(batch_parameters={"dataframe": frame})
    )
    known = {
        "rows": gxe.ExpectTableRowCountToBeBetween(min_value=3000, max_value=5000),
        "null_excess": gxe.ExpectColumnValuesToNotBeNull(column="platform", mostly=0.97),
        # A share of 1 % repeats: the expectation counts every row of a repeated key.
        "duplicates": gxe.ExpectColumnProportionOfUniqueValuesToBeBetween(
            column="nb_key", min_value=0.99
        ),
        "out_of_range": gxe.ExpectColumnValuesToBeBetween(
            column="price", min_value=0, max_value=20, mostly=0.998
        ),
        "new_values": gxe.ExpectColumnValuesToBeInSet(
            column="platform", value_set=["ios", "android", "web"], mostly=0.95
        ),
    }
    return {name for name, each in known.items() if not batch.validate(each).success}


def by_profile(frame: pd.DataFrame) -> set[str]:
    """The same from profiles of parts, merged."""
    whole = Profile()
    for part in np.array_split(np.arange(len(frame)), 5):
        table = pa.Table.from_pandas(frame.iloc[part], preserve_index=False)
        whole = whole.merge(Profile.of(table))
    platform, price = whole.columns["platform"], whole.columns["price"]
    facts = Facts()
    facts.add("rows", whole.rows)
    facts.add("null_excess", platform.nulls / platform.rows, subject="platform")
    facts.add("duplicates", whole.duplicate_share)
    highest = price.quantile(0.998)
    assert highest is not None
    facts.add("out_of_range", float(highest > 20), subject="price")
    new = sum(count for value, count in platform.top() if value not in ("ios", "android", "web"))
    facts.add("new_values", new / platform.values, subject="platform")
    checks = judge("raw", facts, LIMITS, date(2026, 1, 20)).checks
    return {each.name.partition(":")[0] for each in checks if each.verdict == "stop"}


@pytest.mark.parametrize(
    ("fault", "stops"),
    [
        ("", set()),
        ("a few nulls", set()),
        ("nulls", {"null_excess"}),
        ("duplicates", {"duplicates"}),
        ("prices", {"out_of_range"}),
        ("a new value", {"new_values"}),
        ("half a day", {"rows"}),
    ],
)
def test_profile_and_rows_lead_to_the_same_verdict(fault: str, stops: set[str]) -> None:
    frame = rows(fault)
    assert by_rows(frame) == by_profile(frame) == stops
