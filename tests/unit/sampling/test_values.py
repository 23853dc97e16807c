"""Values of real logs: any Arrow type, any spelling of a label, reserved names."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nightbid.config.load import parse_pipeline
from nightbid.config.pipeline import PipelineSpec
from nightbid.errors import ConfigError, CorruptDataError
from nightbid.gates.day_profiles import DayProfile, DayProfiles
from nightbid.gates.judge import judge
from nightbid.gates.raw import measure_days
from nightbid.profile import Profile
from nightbid.sampling.plain import plain_array
from nightbid.sampling.rows import parse
from nightbid.sampling.stage import run
from nightbid.schema import LABEL, REASON, RESERVED, USER
from tasks import task_of

from .small_logs import logs

NEWEST = dt.date(2026, 1, 8)
SPEC = """
pipeline: values
source: {{kind: parquet, folder: {folder}}}
window: {{train_days: 2, validate_days: 1, evaluate_days: 1}}
features:
  ad_id: vocabulary
"""
UUID = uuid.UUID("f2345678-1234-5678-9234-5678123456ff")


def spec_of(folder: object = "logs") -> PipelineSpec:
    return parse_pipeline(SPEC.format(folder=folder), "values.yaml")


def parsed(**columns: object):
    return parse(logs(**columns), spec_of(), {}, "logs of today")


@pytest.fixture
def night(tmp_path):
    """Sample four days of one table; return the outcome of the stage and its folder."""

    def start(table_of):
        folder, out = tmp_path / "logs", tmp_path / "out"
        for back in range(4):
            day = NEWEST - dt.timedelta(days=back)
            (folder / f"dt={day}").mkdir(parents=True)
            pq.write_table(table_of(day), folder / f"dt={day}" / "part.parquet")
        out.mkdir()
        spec = spec_of(folder)
        task = task_of(spec, NEWEST, out, workspace=tmp_path, cache=tmp_path)
        return run(task), out

    return start


LABELS = [
    pa.array([0, 1, 0, 1, 0, 1]),
    pa.array([0, 1, 0, 1, 0, 1], pa.uint64()),
    pa.array([0.0, 1.0, 0.0, 1.0, 0.0, 1.0], pa.float16()),
    pa.array([False, True, False, True, False, True]),
    pa.array([Decimal(text) for text in ("0", "1", "0", "1", "0", "1")]),
    pa.array([Decimal(text) for text in ("0.00", "1.00", "0.00", "1.00", "0.00", "1.00")]),
    pa.array(["0", "TRUE", "false", "True", "0.0", "1"]),
    pa.array(["False", "true", "0", "1.000", "FALSE", "1.0"], pa.large_string()),
    pa.array(["0", "1", "0", "1", "0", "1"]).dictionary_encode(),
    pa.array([b"0", b"1", b"0", b"1", b"0", b"TRUE"]),
]


@pytest.mark.parametrize("label", LABELS, ids=lambda values: str(values.type))
def test_labels_of_any_type_are_read(label):
    block = parsed(click=label)
    assert block.good[LABEL].to_pylist() == [0, 1, 0, 1, 0, 1]
    assert (block.positives, block.aside_positives) == (3, 0)


@pytest.mark.parametrize("spelling", [" 1", "yes", "10", "Y", "-1", "1.5"])
def test_unknown_label_spellings_are_set_aside(spelling):
    block = parsed(click=["0", "1", "0", "1", "0", spelling])
    assert block.aside[REASON].to_pylist() == ["click is neither 0 nor 1"]
    assert block.examples == {"click is neither 0 nor 1": repr(spelling)}
    assert block.aside_positives == 1  # it may have been positive


def day_with(read: int, quarantined: int, positives: int, lost: int) -> list[str]:
    days = [
        DayProfile(
            NEWEST - dt.timedelta(days=back),
            Profile(rows=read - quarantined),
            {"read": read, "quarantined": quarantined, "positives": positives,
             "quarantined_positives": lost},
        )
        for back in range(2)
    ]  # fmt: skip
    spec = spec_of()
    measurements = measure_days(DayProfiles(days, [], [day.date for day in days]), spec)
    verdict = judge("raw", measurements, spec.gates, NEWEST)
    return [check.verdict for check in verdict.checks if check.name == "quarantined_positives"]


def test_losing_a_third_of_clicks_to_quarantine_stops_the_night():
    # One of three producers spells clicks differently: 0.65% of the rows, a third of the clicks.
    assert day_with(20_000, 130, 394, 130) == ["stop"]
    # The same number of rows is lost regardless of the label.
    assert day_with(20_000, 130, 394, 3) == ["pass"]
    # A few are lost by chance.
    assert day_with(20_000, 130, 394, 8) == ["pass"]


def test_losing_clicks_to_repeated_keys_stops_the_night():
    def verdict_of(lost: int) -> str:
        figures = {"read": 20_000, "repeated": 200, "positives": 400, "repeated_positives": lost}
        dates = [NEWEST - dt.timedelta(days=back) for back in range(2)]
        days = [DayProfile(date, Profile(rows=19_800), figures) for date in dates]
        measurements = measure_days(DayProfiles(days, [], dates), spec_of())
        verdict = judge("raw", measurements, spec_of().gates, NEWEST)
        (worst,) = {c.verdict for c in verdict.checks if c.name == "repeated_positives"}
        return worst

    assert [verdict_of(lost) for lost in (0, 4, 8, 200)] == ["pass", "pass", "warn", "stop"]


def test_mixed_label_spellings_are_read(night):
    def table(day):
        random = np.random.default_rng(day.toordinal())
        click = random.random(2000) < 0.02
        text = np.where(click, np.where(random.integers(0, 3, 2000) == 2, "TRUE", "1"), "0")
        clicks[day] = click.mean()
        return logs(2000, click=pa.array(text))

    clicks: dict[dt.date, float] = {}
    outcome, _ = night(table)
    assert outcome.rows.quarantined == 0
    assert outcome.metrics["label_rate"] == pytest.approx(np.mean(list(clicks.values())))


def test_a_fully_unreadable_day_is_reported_with_its_first_value(night):
    def table(day):
        return logs(50, time=pa.array([f"around noon of {day}"] * 50))

    with pytest.raises(CorruptDataError) as caught:
        night(table)
    line = str(caught.value)
    assert "none of 50 rows can be read: time is not a time" in line
    assert "for example 'around noon of 2026-01-05'" in line


PLAIN = [
    (pa.array(["a", None]).dictionary_encode(), pa.string(), ["a", None]),
    (pa.array([b"u77", None]), pa.string(), ["u77", None]),
    (pa.array([b"\xff\x00", b"a"]), pa.string(), ["0xff00", "a"]),
    (pa.array([UUID.bytes, None], pa.binary(16)), pa.string(), ["0x" + UUID.hex, None]),
    (pa.ExtensionArray.from_storage(pa.uuid(), pa.array([UUID.bytes, None], pa.binary(16))),
     pa.string(), [str(UUID), None]),
    (pa.array(["a"], pa.string_view()), pa.string(), ["a"]),
    (pa.ExtensionArray.from_storage(pa.json_(), pa.array(["{}"])), pa.string(), ["{}"]),
    (pa.array([0.5, None], pa.float16()), pa.float32(), [0.5, None]),
    (pa.array([1_767_225_600_123_456_789], pa.timestamp("ns")), pa.timestamp("us"),
     [dt.datetime(2026, 1, 1, 0, 0, 0, 123456)]),
    (pa.array([dt.time(19, 30)], pa.time64("us")), pa.string(), ["19:30:00"]),
    (pa.array([dt.time(19, 30)], pa.time32("s")), pa.string(), ["19:30:00"]),
    (pa.array([[b"a"], None, [b"b", None]]).slice(1), pa.list_(pa.string()), [None, ["b", None]]),
    (pa.array([["a", "b"], None], pa.list_(pa.string_view(), 2)), pa.list_(pa.string()),
     [["a", "b"], None]),
    (pa.array([Decimal("4.96")]), pa.decimal128(3, 2), [Decimal("4.96")]),
]  # fmt: skip


@pytest.mark.parametrize(("array", "kind", "values"), PLAIN, ids=lambda case: str(case)[:20])
def test_columns_are_converted_to_plain_types(array, kind, values):
    plain = plain_array(array)
    plain.validate(full=True)
    assert (plain.type, plain.to_pylist()) == (kind, values)


UNUSED = {
    "lists": pa.array([[["a"], ["b"]]] * 2000),
    "half": pa.array(np.ones(2000, np.float16)),
    "view": pa.array(["a"] * 2000, pa.string_view()),
    "json": pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}'] * 2000)),
    "struct": pa.array([{"a": 1}] * 2000),
    "map": pa.array([[("a", 1)]] * 2000, pa.map_(pa.string(), pa.int64())),
    "nano": pa.array(np.arange(2000) + 1_767_225_600_123_456_789, pa.timestamp("ns")),
    "uuid": pa.array([uuid.uuid4().bytes for _ in range(2000)], pa.binary(16)),
    "money": pa.array([Decimal("1.23")] * 2000),
    "nothing": pa.nulls(2000),
}


def test_unused_columns_of_any_type_are_ignored(night):
    outcome, folder = night(lambda day: logs(2000, **UNUSED))
    assert outcome.rows.written == outcome.rows.read == 8000
    assert len(list(folder.glob("profile/dt=*.json"))) == 4


def test_dictionary_encoding_on_one_day_does_not_change_the_schema(night):
    def table(day):
        note = pa.array([f"n{at % 3}" for at in range(20)])
        return logs(20, note=note.dictionary_encode() if day == NEWEST else note)

    _, folder = night(table)
    parts = [pq.read_table(path, partitioning=None) for path in folder.glob("split=*/**/*.parquet")]
    assert len(parts) == 4
    assert {str(part.schema) for part in parts} == {str(parts[0].schema)}
    assert len({tuple(part["note"].to_pylist()) for part in parts}) == 1


@pytest.mark.parametrize("key", ["uuid", "fixed", "binary", "category"])
def test_keys_of_any_type_stay_distinct(night, key):
    def table(day):
        random = np.random.default_rng(day.toordinal())
        raw = pa.array([random.bytes(16) for _ in range(2000)], pa.binary(16))
        keys = {
            "uuid": pa.ExtensionArray.from_storage(pa.uuid(), raw),
            "fixed": raw,
            "binary": raw.cast(pa.binary()),
            "category": raw.cast(pa.binary()).dictionary_encode(),
        }
        users = pa.array([f"u{at}".encode() for at in random.integers(0, 400, 2000)])
        return logs(2000, impression_id=keys[key], user_id=users)

    outcome, folder = night(table)
    assert outcome.rows.written == 8000
    rows = pq.ParquetFile(next(folder.glob("split=evaluate/dt=*/*.parquet"))).read()
    assert 300 < len(rows[USER].unique()) <= 400


def test_an_empty_key_is_set_aside_instead_of_counted_as_duplicate():
    block = parsed(impression_id=["a", "", "", "b", "c", "d"])
    assert block.aside[REASON].to_pylist() == ["impression_id is empty"] * 2


@pytest.mark.parametrize(
    "name", [reserved for reserved in RESERVED if reserved not in (REASON, "nb_text")]
)
def test_reserved_column_names_are_rejected_in_one_line(name):
    with pytest.raises(CorruptDataError, match=f"'{name}', a name that Nightbid reserves") as error:
        parsed(**{name: ["x"] * 6})
    assert f"rename: {{{name}: " in str(error.value)


@pytest.mark.parametrize("name", [REASON, "nb_text"])
def test_logged_columns_named_like_internal_ones_are_rejected(night, name):
    with pytest.raises(CorruptDataError, match=f"'{name}', a name that Nightbid reserves"):
        night(lambda day: logs(50, **{name: ["timeout", None] * 25}))


def test_other_columns_with_the_reserved_prefix_are_kept(night):
    _, folder = night(lambda day: logs(200, nb_visits=list(range(200))))
    rows = pq.ParquetFile(next(folder.glob("split=evaluate/dt=*/*.parquet"))).read()
    assert rows["nb_visits"].to_pylist() == list(range(200))


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("  nb_user: {column: household}\n", "'nb_user'"),
        ("  weight: {column: nb_weight}\n", "a column of features.weight is 'nb_weight'"),
        ("columns: {user: nb_user}\n", "columns.user is 'nb_user'"),
        ("evaluate: {slices: [nb_time]}\n", "evaluate.slices is 'nb_time'"),
        ("label: {column: nb_label}\n", "label.column is 'nb_label'"),
        ("  price: {transform: numeric, missing_indicator: true}\n  price__missing: vocabulary\n",
         "'price' and 'price__missing' both make the model input 'price__missing'"),
        ("  tags: bag\n  tags__weight: numeric\n", "both make the model input 'tags__weight'"),
        ("  seen: vocabulary\nlabel: {column: bought, given: seen}\n",
         "reads 'seen', which is label.given and known only after the impression"),
        ("  at: vocabulary\nlabel: {column: bought, event_time: at}\n",
         "reads 'at', which is label.event_time and known only after the impression"),
    ],
)  # fmt: skip
def test_conflicting_column_and_feature_names_are_rejected(block, message):
    with pytest.raises(ConfigError) as caught:
        parse_pipeline(SPEC.format(folder="logs") + block, "values.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_profiles_truncate_long_texts(night):
    def table(day):
        return logs(500, page=[f"{at % 50:02d}" * 20_000 for at in range(500)])

    _, out = night(table)
    path = next((out / "profile").glob("*.json"))
    assert path.stat().st_size < 200_000
    assert json.loads(path.read_text())["columns"]["page"]["values"] == 500
