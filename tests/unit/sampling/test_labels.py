"""Labels that are read from an outcome, the presence of a value, or the time of an event."""

from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
import pytest
from nightbid.schema import LABEL, REASON

from .small_logs import logs, parsed

HOUR = 3_600_000_000


def test_a_conversion_after_its_attribution_window_is_a_negative():
    table = logs(4, click=[1, 1, 1, 0])
    start = table["time"].cast(pa.int64()).to_pylist()
    waited = [HOUR, 48 * HOUR, 48 * HOUR + 1, None]
    event = [None if w is None else s + w for s, w in zip(start, waited, strict=True)]
    table = table.append_column("at", pa.array(event, pa.timestamp("us", "UTC")))
    label = {"column": "click", "event_time": "at", "attribution_days": 2}
    assert parsed(table, label=label).good[LABEL].to_pylist() == [1, 1, 0, 0]
    early = table.set_column(5, "at", pa.nulls(4, pa.timestamp("us", "UTC")))
    block = parsed(early, label=label)
    assert block.aside[REASON].to_pylist() == ["at is null though click is 1"] * 3


KNOWN = [
    pa.array([HOUR, None, HOUR, None], pa.timestamp("us", "UTC")),
    pa.array(["order-1", "", "order-2", None]),
    pa.array([b"o", b"", b"o", None]),
    pa.array([17, 0, 3, -1]),
    pa.array([17.0, float("nan"), 3.0, None]),
    pa.array(["a", None, "b", None]).dictionary_encode(),
    pa.array([True, False, True, None]),
    pa.array([Decimal("1.50"), Decimal("0.00"), Decimal("2.00"), None]),
]


@pytest.mark.parametrize("event", KNOWN, ids=lambda values: str(values.type))
def test_the_presence_of_a_value_can_be_the_label(event):
    label = {"column": "at", "positive": "known"}
    block = parsed(logs(4, at=event), label=label)
    assert block.good[LABEL].to_pylist() == [1, 0, 1, 0]
    assert (block.positives, len(block.aside)) == (2, 0)


@pytest.mark.parametrize("text", ["null", "NULL", "None", "N/A", "0", "0.0", "False", " - "])
def test_texts_that_state_no_event_are_no_positive_label(text):
    label = {"column": "order", "positive": "known"}
    block = parsed(logs(4, order=["o-1", text, "0-2", ""]), label=label)
    assert block.good[LABEL].to_pylist() == [1, 0, 1, 0]


def test_an_event_time_can_be_a_label_with_an_attribution_window():
    start = logs(3)["time"].cast(pa.int64()).to_pylist()
    event = [start[0] + HOUR, start[1] + 49 * HOUR, None]
    table = logs(3, at=pa.array(event, pa.timestamp("us", "UTC")))
    label = {"column": "at", "positive": "known", "event_time": "at", "attribution_days": 2}
    assert parsed(table, label=label).good[LABEL].to_pylist() == [1, 0, 0]
