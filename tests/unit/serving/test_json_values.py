"""HTTP requests accept every type that the logs hold, and no value changes on the way."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nightbid.config.load import parse_pipeline
from nightbid.errors import CorruptDataError
from nightbid.night.record import RunRecord
from nightbid.scorer.rows import parse
from nightbid.serving.bundle import Bundle, read_columns
from nightbid.serving.export import ask_over_http
from nightbid.serving.json_values import WRONG, from_json
from nightbid.storage.workspace import Workspace

from .small_night import SmallNight

RIGHT = [
    ([3, None, 4.0], pa.int64(), [3, None, 4]),
    ([2**63], pa.uint64(), [2**63]),
    ([2**53 + 1, 2.0**53 - 1], pa.int64(), [2**53 + 1, 2**53 - 1]),
    (["1e2", " .5", "-1."], pa.decimal128(5, 2), [Decimal(100), Decimal("0.5"), Decimal(-1)]),
    ([1, 0.5], pa.float64(), [1.0, 0.5]),
    ([True, None], pa.bool_(), [True, None]),
    ([4.96, "4.96", 5, None], pa.decimal128(5, 2), [Decimal("4.96")] * 2 + [Decimal(5), None]),
    (["19:30:00"], pa.time64("us"), [dt.time(19, 30)]),
    ([["a", None], None, []], pa.list_(pa.string()), [["a", None], None, []]),
    ([[1, 2]], pa.list_(pa.int32(), 2), [[1, 2]]),
    ([["a"], None], pa.large_list(pa.string()), [["a"], None]),
    (["spring", None], pa.null(), ["spring", None]),
    ([7], pa.null(), [7]),
    (["a", "b"], pa.dictionary(pa.int32(), pa.string()), ["a", "b"]),
]
REFUSED = [
    (3.99, pa.int64()),
    (17.9, pa.uint32()),
    (True, pa.int64()),
    ("3", pa.int64()),
    (2**63, pa.int64()),
    (True, pa.float64()),
    ("4.96", pa.float64()),
    (1, pa.bool_()),
    ("true", pa.bool_()),
    (5, pa.string()),
    ("sports", pa.list_(pa.string())),
    ([1], pa.list_(pa.string())),
    ([0.5], pa.list_(pa.int64())),
    ([[True]], pa.list_(pa.list_(pa.int64()))),
    (4.961, pa.decimal128(5, 2)),
    ("four", pa.decimal128(5, 2)),
    ("0_5", pa.decimal128(5, 2)),
    ("٠.٥", pa.decimal128(5, 2)),
    (12345678901234567.89, pa.decimal128(38, 10)),
    (9007199254740993.0, pa.int64()),
    ([1e18], pa.list_(pa.int64())),
    (True, pa.decimal128(5, 2)),
    (1_767_225_600, pa.timestamp("us", "UTC")),
    ("noon", pa.time64("us")),
]


@pytest.mark.parametrize(("values", "kind", "found"), RIGHT, ids=lambda value: str(value)[:30])
def test_json_values_become_the_type_of_their_column(values, kind, found):
    array = from_json(values, kind)
    assert array.to_pylist() == found
    assert array.type == kind or pa.types.is_null(kind)


@pytest.mark.parametrize(("value", "kind"), REFUSED, ids=str)
def test_json_values_of_another_type_are_rejected(value, kind):
    with pytest.raises(WRONG):
        from_json([value], kind)
    body = json.dumps({"rows": [{"x": None}, {"x": value}]}).encode()
    with pytest.raises(CorruptDataError, match=r"rows\[1\]: .* is not a value of 'x'"):
        parse(body, pa.schema([("x", kind)]))


@pytest.mark.parametrize(
    ("value", "kind"), [(2**63, pa.string()), ([1, 2**64], pa.list_(pa.string()))], ids=str
)
def test_integers_beyond_64_bits_are_asked_for_as_text(value, kind):
    body = json.dumps({"rows": [{"x": value}]}).encode()
    with pytest.raises(CorruptDataError, match="integers beyond 64 bits are text there"):
        parse(body, pa.schema([("x", kind)]))


LOGS = """
pipeline: typed
source: {{kind: parquet, folder: {folder}}}
columns: {{item: ad_id}}
window: {{train_days: 2}}
features:
  price: {{transform: numeric}}
  slot: {{column: at, min_count: 1}}
  coupon: vocabulary
  tags: {{transform: bag, length: 3}}
  device: vocabulary
  fee: {{min_count: 1}}
model: {{architecture: logistic_regression}}
train: {{epochs: 1, batch_size: 256}}
"""


@pytest.fixture(scope="module")
def typed(tmp_path_factory) -> SmallNight:
    """Run a night on logs with decimals, times of day, categories, lists and nulls."""
    root = tmp_path_factory.mktemp("typed")
    for day in range(5, 9):
        random = np.random.default_rng(day)
        rows = 600
        price = random.integers(1, 900, rows)
        tags = [list(random.choice(["a", "b", "c"], 2)) for _ in range(rows)]
        table = pa.table(
            {
                "impression_id": [f"{day}-{at}" for at in range(rows)],
                "time": pa.array(
                    [dt.datetime(2026, 1, day, at % 24, tzinfo=dt.UTC) for at in range(rows)]
                ),
                "user_id": random.integers(0, 90, rows),
                "ad_id": random.integers(0, 30, rows),
                "price": [Decimal(int(cents)) / 100 for cents in price],
                "fee": pa.array([Decimal("0.50"), Decimal("1.00")] * (rows // 2)),
                "at": pa.array([dt.time(at % 24, 30) for at in range(rows)], pa.time64("us")),
                "coupon": pa.nulls(rows),
                "tags": pa.array(tags, pa.list_(pa.dictionary(pa.int8(), pa.string()))),
                "device": pa.array(random.choice(["phone", "tv"], rows)).dictionary_encode(),
                "click": (random.random(rows) < 0.1 + price / 2000).astype("i8"),
            }
        )
        folder = root / "logs" / f"dt=2026-01-0{day}"
        folder.mkdir(parents=True)
        pq.write_table(table, folder / "part.parquet")
    small = SmallNight.__new__(SmallNight)
    small.root = root
    small.spec = parse_pipeline(LOGS.format(folder=root / "logs"), "typed.yaml")
    small.run = RunRecord.start(Workspace(root / "ws"), small.spec, dt.date(2026, 1, 8))
    for name in ("sample", "featurize", "train", "export"):
        small.stage(name)
    return small


def asked(typed: SmallNight, **change: object) -> pa.Table:
    row = {"price": 4.96, "at": "19:30:00", "coupon": None, "tags": ["a", "b"], "device": "tv",
           "fee": 0.5}  # fmt: skip
    body = json.dumps({"rows": [{**row, **change}]}).encode()
    return parse(body, read_columns(typed.folder("export")))


def test_json_decimals_times_of_day_lists_and_categories_can_be_scored(typed):
    bundle = Bundle.load(typed.folder("export"))
    logged = typed.raw().slice(0, 1)
    # A client writes the value by hand, as the logs hold it.
    first = logged.to_pylist()[0]
    values = {"price": float(first["price"]), "at": str(first["at"]), "tags": first["tags"],
              "device": first["device"], "coupon": None, "fee": float(first["fee"])}  # fmt: skip
    assert bundle.score(asked(typed, **values)) == bundle.score(logged)
    price = {bundle.score(asked(typed, price=value))[0] for value in (0.5, 4.96, "8.10", 7)}
    assert len(price) == 4
    slots = {bundle.score(asked(typed, at=f"{hour:02d}:30:00"))[0] for hour in range(24)}
    assert len(slots) > 12


def test_values_of_an_all_null_column_are_out_of_vocabulary(typed):
    bundle = Bundle.load(typed.folder("export"))
    spring, summer = (bundle.score(asked(typed, coupon=value)) for value in ("spring", "summer"))
    assert spring == summer
    assert 0 < spring[0] < 1


def test_the_export_checks_that_logged_rows_can_be_sent_as_json(typed):
    folder = typed.folder("export")
    bundle, columns = Bundle.load(folder), read_columns(folder)
    ask_over_http(bundle, typed.raw(), columns)
    # The promotion names a column that JSON cannot carry before anything is promoted.
    raw = typed.raw()
    place = raw.column_names.index("device")
    broken = raw.set_column(place, "device", pa.array([{"x": 1}] * len(raw)))
    with pytest.raises(CorruptDataError, match=r"cannot read rows of the logs: .*'device'"):
        ask_over_http(bundle, broken, columns)
