"""Numbers and times as text, and unreadable values: how they are counted and checked."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nightbid.config.load import parse_pipeline
from nightbid.errors import GateStopped
from nightbid.night.record import RunRecord
from nightbid.night.stages import stage_named
from nightbid.number_parsing import numbers
from nightbid.runner import run_stage
from nightbid.storage.workspace import Workspace
from nightbid.time_parsing import as_time
from nightbid.unreadable_values import Unreadable, unreadable

AT = dt.datetime(2026, 1, 5, 12, 34, 56, tzinfo=dt.UTC)
MILLI, MICRO = AT.replace(microsecond=789_000), AT.replace(microsecond=789_012)
TIMES = [
    ("2026-01-05 12:34:56 UTC", AT),
    ("2026-01-05 12:34:56.789012 UTC", MICRO),
    ("2026-01-05 12:34:56 +0000 UTC", AT),
    ("2026-01-05T13:34:56+01:00", AT),
    ("1767616496", AT),
    ("1767616496.789", MILLI),
    ("1767616496789", MILLI),
    ("1767616496789012345", MICRO),
    ("20260105123456", AT),
    ("20260105123456789", MILLI),
    ("20260105", dt.datetime(2026, 1, 5, tzinfo=dt.UTC)),
    (1767616496, AT),
    (1767616496789, MILLI),
    (1767616496789012, MICRO),
    (1767616496789012345, MICRO),
    (20260105123456789, MILLI),
    (20260105123456.0, AT),
    (20260105, dt.datetime(2026, 1, 5, tzinfo=dt.UTC)),
    ("20261305123456", None),
    (20260230000000, None),
    ("soon", None),
    (2**64 - 1, None),
]


@pytest.mark.parametrize(("value", "time"), TIMES, ids=str)
def test_common_time_formats_are_read(value, time):
    kind = pa.uint64() if isinstance(value, int) and value >= 2**63 else None
    assert as_time(pa.array([value, None], kind)).to_pylist() == [time, None]


def test_thousands_separators_are_read_only_when_unambiguous():
    texts = pa.array(["2,340.50", "1,234,567", "-1,000.5", " 7 ", "2,340", "2,34", "1.234,50"])
    read = numbers(texts)
    assert read[:4].tolist() == [2340.5, 1234567, -1000.5, 7]
    assert np.isnan(read[4:]).all()
    counts = unreadable(texts, "number")
    assert (counts.values, counts.known, counts.example) == (3, 7, "1.234,50")


def test_missing_values_are_not_counted_as_unreadable():
    texts = pa.array(["1", None, "", "null", "NA", "\\N", "nan", "x"])
    assert unreadable(texts, "number") == Unreadable(1, 2, "x")
    assert unreadable(pa.array([1.0, None, float("nan")]), "number") == Unreadable(0, 1)
    assert unreadable(pa.nulls(3), "number") == Unreadable()
    assert unreadable(pa.array(["2026-01-05", "soon"]), "time") == Unreadable(1, 2, "soon")


@pytest.mark.parametrize("largest", [3.4e38, np.finfo(np.float32).max, 1.797e308])
def test_the_largest_float_counts_as_unreadable(largest):
    column = pa.array([1.0, largest, -largest])
    assert np.isnan(numbers(column)).tolist() == [False, True, True]
    assert unreadable(column, "number").values == 2


PIPELINE = """
pipeline: texts
source: {{kind: parquet, folder: {folder}}}
window: {{train_days: 2}}
features:
  price: numeric
  weekday: {{transform: day_of_week, column: time}}
"""


@pytest.fixture
def gate(tmp_path):
    """Run the gate on a small night with prices as text; return the check of unreadable values."""

    def run(spell):
        for day in range(5, 9):
            random = np.random.default_rng(day)
            start = 1_767_571_200_000_000 + (day - 5) * 86_400_000_000
            table = pa.table(
                {
                    "impression_id": [f"{day}-{at}" for at in range(500)],
                    "time": pa.array(start + np.arange(500), pa.timestamp("us", "UTC")),
                    "user_id": random.integers(0, 90, 500),
                    "price": [
                        spell(at, price) for at, price in enumerate(random.gamma(2, 1500, 500))
                    ],
                    "click": (random.random(500) < 0.3).astype("i8"),
                }
            )
            folder = tmp_path / "logs" / f"dt=2026-01-0{day}"
            folder.mkdir(parents=True)
            pq.write_table(table, folder / "part.parquet")
        spec = parse_pipeline(PIPELINE.format(folder=tmp_path / "logs"), "texts.yaml")
        record = RunRecord.start(Workspace(tmp_path / "ws"), spec, dt.date(2026, 1, 8))
        for name in ("sample", "featurize", "gate_features"):
            result = run_stage(stage_named(name), spec, record, cache_folder=tmp_path / "cache")
        checks = result.manifest.metrics["checks"]
        # A single day always has one weekday, so the gate does not report it.
        assert not [check for check in checks if check["name"] == "newly_constant:weekday"
                    and check["verdict"] != "pass"]  # fmt: skip
        return next(check for check in checks if check["name"].startswith("unreadable"))

    return run


def test_the_gate_stops_when_no_price_can_be_read(gate):
    with pytest.raises(GateStopped, match=r"unreadable:price is 1, expected ≤ 0\.02") as caught:
        gate(lambda at, price: f"{price:.2f}".replace(".", ","))
    assert "500 of 500 values cannot be read, for example '" in str(caught.value)


def test_the_gate_warns_of_a_few_unreadable_prices(gate):
    check = gate(lambda at, price: "call us" if at % 100 == 0 else f"{price:,.2f}")
    assert (check["verdict"], check["observed"]) == ("warn", "0.01")
    assert "5 of 500 values cannot be read, for example 'call us'" in check["detail"]


def test_the_gate_passes_prices_with_thousands_separators(gate):
    assert gate(lambda at, price: f"{price:,.2f}")["verdict"] == "pass"
