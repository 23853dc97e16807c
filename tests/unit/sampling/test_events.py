"""`kind: events` joins impressions, clicks and conversions of three folders."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from nightbid.arrival.contract import day_arrival
from nightbid.cli import data
from nightbid.config.columns import Columns
from nightbid.config.pipeline import Label, Night
from nightbid.data.source import open_source
from nightbid.data.write import write_streams
from nightbid.errors import CorruptDataError, MissingDataError
from nightbid.gates import joined_events
from nightbid.gates.day_profiles import DayProfile, DayProfiles
from nightbid.gates.measurements import Measurements
from nightbid.profile import Profile
from nightbid.sampling.day import key_of
from nightbid.sampling.rows import parse
from nightbid.schema import KEY, LABEL, REASON, TEXT, TIME
from nightbid.storage.digests import kept_digest
from nightbid.storage.verify import inventory
from nightbid.storage.workspace import Workspace

from .event_logs import DAY, NONE, SMALL, at, joined, put, sampled, spec_of, streams


def test_events_are_joined_within_windows_and_others_are_set_aside(logs, tmp_path):
    rows, aside, figures = joined(logs, tmp_path, value="amount")
    assert {key: row["clicks"] for key, row in rows.items()} == {"a": 2, "b": 0, "c": 1, "d": 0}
    assert rows["a"]["click_time"] == at(3)
    assert rows["c"]["click_time"] == at(26)  # from the next day's log
    assert (rows["b"]["clicked"], rows["b"]["click_time"]) == (0, None)
    # Both conversions of a: after its first click and, the day after, after its last.
    a = rows["a"]
    assert (a["conversions"], a["conversion_value"]) == (2, 5.0)
    assert a["conversion_time"] == at(2.5)
    assert rows["d"]["converted"] == 0  # no click came before
    assert aside == [
        {REASON: "a click earlier than its impression", TEXT: "b"},
        {REASON: "a click without an id", TEXT: None},
        {REASON: "a click without an impression of its day or the day before", TEXT: "lost"},
    ]
    assert (figures["clicks"], figures["clicks_repeated"], figures["clicks_orphans"]) == (5, 1, 1)
    assert figures["clicks_outside_window"] == 1  # d: 24.5 hours later
    assert figures["conversions_outside_window"] == 1
    assert figures["clicks_delay_median_hours"] == pytest.approx((1 + 23) / 2)


def test_the_value_of_conversions_can_be_the_label(logs, tmp_path):
    source = streams(logs, value="amount", attribution_days=1)
    spec = spec_of(
        source,
        label={"kind": "value", "column": "conversion_value"},
        window={"train_days": 1, "validate_days": 1, "evaluate_days": 1},
    )
    assert (spec.label.attribution_days, spec.label.event_time) == (1, None)
    rows, _, _ = joined(logs, tmp_path, value="amount")
    table = pa.Table.from_pylist(list(rows.values()))
    good = parse(table, spec, {}, "logs").good
    assert good[LABEL].to_pylist() == table["conversion_value"].to_pylist()
    assert max(good[LABEL].to_pylist()) == 5.0


def test_conversion_values_that_are_not_numbers_are_set_aside(logs, tmp_path):
    put(logs, "conversions", DAY, impression_id=["a", "a", "a", "a", "a", None],
        time=[at(2.5 + n / 10) for n in range(6)],
        amount=["3.5", "n.a.", None, " ", "free", "1"])  # fmt: skip
    put(logs, "conversions", DAY + timedelta(days=1), impression_id=["a"], time=[at(25)],
        amount=["1.5"])  # fmt: skip
    rows, aside, figures = joined(logs, tmp_path, value="amount")
    # A missing amount counts as 0; the next day's amount counts, unreadable ones do not.
    assert (rows["a"]["conversions"], rows["a"]["conversion_value"]) == (4, 5.0)
    assert [row for row in aside if "conversion" in row[REASON]] == [
        {REASON: "a conversion whose amount is not a number", TEXT: "free"},
        {REASON: "a conversion whose amount is not a number", TEXT: "n.a."},
        {REASON: "a conversion without an id", TEXT: None},
    ]
    assert figures["conversions"] == figures["conversions_without_value"] + 1 == 3
    assert figures["conversions_unreadable"] == 3
    for day in (DAY, DAY + timedelta(days=1)):
        put(logs, "conversions", day, impression_id=["a"], time=[at(2.5)], amount=[at(1)])
    with pytest.raises(CorruptDataError, match=r"'amount' does not contain numbers, but timestamp"):
        joined(logs, tmp_path, value="amount")


def test_a_day_without_conversions_has_the_same_columns(logs, tmp_path):
    for day in (DAY, DAY + timedelta(days=1)):
        put(logs, "conversions", day, impression_id=pa.array([], pa.string()), time=NONE,
            amount=pa.array([], pa.float64()))  # fmt: skip
    rows, _, figures = joined(logs, tmp_path, value="amount")
    assert {row["conversion_value"] for row in rows.values()} == {0.0}
    assert (figures["conversions"], figures["conversions_without_value"]) == (0, 0)


def test_unreadable_event_lines_are_set_aside_with_the_reason(logs, tmp_path):
    folder = tmp_path / "lines"
    for day in (DAY, DAY + timedelta(days=1)):
        (folder / f"dt={day}").mkdir(parents=True)
        (folder / f"dt={day}" / "part.csv").write_text(
            f"impression_id,time\na,{at(2, day)}\nc,{at(3, day)},7,8\n"
        )
    clicks = {"kind": "csv", "folder": str(folder)}
    rows, aside, figures = joined(logs, tmp_path, clicks=clicks)
    assert (rows["a"]["clicks"], rows["c"]["clicks"]) == (1, 0)
    (row,) = [entry for entry in aside if "conversion" not in entry[REASON]]
    assert "4" in row[REASON], row
    assert figures["clicks_unreadable"] == 1


def test_first_touch_and_view_through_attribution_are_applied(logs, tmp_path):
    rows, _, figures = joined(logs, tmp_path, touch="first", view_through_days=0.1,
                              click_through_days=0.5)  # fmt: skip
    assert rows["a"]["click_time"] == at(2)
    assert rows["a"]["conversions"] == 1  # 23 hours after the first click is too late
    assert (rows["d"]["converted"], figures["conversions_view_through"]) == (1, 1)


def test_events_without_earlier_impression_logs_are_not_orphans(logs, tmp_path):
    (logs / "impressions" / f"dt={DAY - timedelta(days=1)}" / "part-00000.parquet").unlink()
    (logs / "impressions" / f"dt={DAY - timedelta(days=1)}").rmdir()
    _, aside, figures = joined(logs, tmp_path)
    assert {
        REASON: "a click without an impression of its day or the day before",
        TEXT: "lost",
    } not in aside
    assert figures["clicks_before_the_logs"] == 2


def test_an_event_key_separates_copies_from_repeated_events(tmp_path):
    put(tmp_path, "impressions", DAY, impression_id=["a"], user_id=["u"], ad_id=["x"],
        time=[at(1)])  # fmt: skip
    put(tmp_path, "clicks", DAY, impression_id=["a"] * 3, time=[at(2), at(2), at(3)],
        click_id=["k1", "k2", "k1"])  # fmt: skip
    source = {**clicks_of_day(tmp_path), "event_key": "click_id"}
    logs = open_source(spec_of(source).source, tmp_path, (DAY,))
    (batch,) = logs.batches(DAY)
    assert batch["clicks"].to_pylist() == [2]
    assert logs.figures(DAY)["clicks_repeated"] == 1


def test_an_event_key_may_be_in_one_stream_only(tmp_path):
    """Orders have an id, clicks often have none; two orders of a second are two."""
    put(tmp_path, "impressions", DAY, impression_id=["a"], time=[at(1)])
    put(tmp_path, "clicks", DAY, impression_id=["a", "a"], time=[at(2), at(2)])
    put(tmp_path, "conversions", DAY, impression_id=["a"] * 3, time=[at(3)] * 3,
        order=["o1", "o2", "o1"], amount=[2.0, 3.0, 2.0])  # fmt: skip
    source = {**streams(tmp_path, value="amount", attribution_days=0), "event_key": "order"}
    (batch,) = open_source(spec_of(source).source, tmp_path, (DAY,)).batches(DAY)
    assert batch["clicks"].to_pylist() == [1]
    assert (batch["conversions"][0].as_py(), batch["conversion_value"][0].as_py()) == (2, 5.0)
    wrong = open_source(spec_of({**source, "event_key": "odrer"}).source, tmp_path, (DAY,))
    with pytest.raises(MissingDataError, match="the conversions have no column 'odrer'"):
        list(wrong.batches(DAY))
    clicks = open_source(
        spec_of({**clicks_of_day(tmp_path), "event_key": "id"}).source, tmp_path, (DAY,)
    )
    with pytest.raises(MissingDataError, match="the clicks have no column 'id'"):
        list(clicks.batches(DAY))


IDS = {
    "floats, as pandas writes ids if some are missing": pa.array([2.0260106000012e13, None]),
    "decimals with a scale": pa.array([20260106000012, None]).cast(pa.decimal128(38, 10)),
    "texts": pa.array(["20260106000012", None]).dictionary_encode(),
    "bytes": pa.array([b"20260106000012", None]),
}


@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
def test_ids_of_another_type_join(tmp_path, ids):
    put(tmp_path, "impressions", DAY, impression_id=[20260106000012], time=[at(1)])
    put(tmp_path, "clicks", DAY, impression_id=ids, time=[at(2)] * 2)
    logs = open_source(spec_of(clicks_of_day(tmp_path)).source, tmp_path, (DAY,))
    rows, aside = logs.batches(DAY)
    assert rows["clicked"].to_pylist() == [1]
    assert aside[REASON].to_pylist() == ["a click without an id"]


def test_uuids_join_as_type_and_as_text(tmp_path):
    some = uuid.UUID(int=7)
    put(tmp_path, "impressions", DAY, impression_id=[str(some)], time=[at(1)])
    stored = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([some.bytes], pa.binary(16)))
    put(tmp_path, "clicks", DAY, impression_id=stored, time=[at(2)])
    logs = open_source(spec_of(clicks_of_day(tmp_path)).source, tmp_path, (DAY,))
    assert next(logs.batches(DAY))["clicked"].to_pylist() == [1]


def clicks_of_day(folder) -> dict:
    """Settings that join the impressions and clicks of a day."""
    return {"kind": "events", "impressions": str(folder / "impressions"),
            "clicks": str(folder / "clicks"), "attribution_days": 0}  # fmt: skip


def joined_in_new_york(folder, day):
    """Join a day whose times without a zone are New York's: batches of rows and of those aside."""
    source = clicks_of_day(folder)
    for stream in ("impressions", "clicks"):
        source[stream] = {"folder": source[stream], "time_zone": "America/New_York"}
    return open_source(spec_of(source).source, folder, (day,)).batches(day)


def test_events_of_the_hour_that_occurs_twice_are_not_before_their_impression(tmp_path):
    """Local times without a zone, when clocks in New York go back from 02:00 to 01:00."""
    day = date(2026, 11, 1)

    def local(*times: str) -> list[datetime]:
        return [datetime.fromisoformat(f"{day} {time}") for time in times]

    put(tmp_path, "impressions", day, impression_id=["a", "b"], time=local("01:50", "03:00"))
    put(tmp_path, "clicks", day, impression_id=["a", "b"], time=local("01:10", "01:30"))
    rows, aside = joined_in_new_york(tmp_path, day)
    assert rows["clicked"].to_pylist() == [1, 0]
    assert rows["click_time"][0].as_py() == datetime(2026, 11, 1, 6, 10, tzinfo=UTC)
    assert aside[REASON].to_pylist() == ["a click earlier than its impression"]


@pytest.mark.parametrize(
    "stated",
    [
        lambda instants: pa.array(instants, pa.timestamp("us", "UTC")),
        lambda instants: pa.array(instants, pa.timestamp("ms", "America/New_York")),
        lambda instants: [round(instant.timestamp()) for instant in instants],
        lambda instants: [f"{instant:%Y-%m-%dT%H:%M:%SZ}" for instant in instants],
        lambda instants: [
            instant.astimezone(ZoneInfo("America/New_York")).isoformat() for instant in instants
        ],
    ],
    ids=["UTC timestamps", "timestamps with a zone", "seconds since 1970", "Z", "offsets"],
)
def test_instants_in_the_hour_that_occurs_twice_are_not_moved(tmp_path, stated):
    """Of the clicks, one is ten minutes before its impression, one ten minutes after it."""
    day = date(2026, 11, 1)
    shown = datetime(2026, 11, 1, 5, 35, tzinfo=UTC)  # 01:35, for the first time
    clicked = [shown - timedelta(minutes=10), shown + timedelta(minutes=10)]
    put(tmp_path, "impressions", day, impression_id=["a", "b"], time=stated([shown, shown]))
    put(tmp_path, "clicks", day, impression_id=["a", "b"], time=stated(clicked))
    rows, aside = joined_in_new_york(tmp_path, day)
    assert rows["clicked"].to_pylist() == [0, 1]
    assert rows["click_time"][1].as_py() == clicked[1]
    assert aside[REASON].to_pylist() == ["a click earlier than its impression"]
    assert aside[TEXT].to_pylist() == ["a"]


def test_late_events_change_only_days_within_their_window(logs, tmp_path):
    days = [DAY + timedelta(days=n) for n in range(-1, 3)]
    for day in days[2:]:
        put(logs, "impressions", day, impression_id=["q"], user_id=["q"], ad_id=["q"],
            time=[at(1, day)])  # fmt: skip
    spec = spec_of(streams(logs))

    def keys():
        source = open_source(spec.source, tmp_path, days)
        return [
            key_of(source, spec, "train", day, lambda path: kept_digest(path, tmp_path)).digest
            for day in days
        ]

    before = keys()
    put(logs, "clicks", DAY + timedelta(days=1), impression_id=["c"], time=[at(27)])
    after = keys()
    assert [one == other for one, other in zip(before, after, strict=True)] == [
        True, False, False, True,
    ]  # fmt: skip


def test_missing_event_logs_and_columns_are_reported(logs, tmp_path):
    spec = spec_of(streams(logs, attribution_days=2))
    source = open_source(spec.source, tmp_path, (DAY,))
    assert source.not_there(DAY) == ["clicks of 2026-01-07", "conversions of 2026-01-07"]
    with pytest.raises(MissingDataError, match=r"there are no clicks of 2026-01-07, and impress"):
        list(source.batches(DAY))
    arrived = day_arrival(spec, DAY, Workspace(str(tmp_path)), tmp_path, datetime.now(UTC))
    assert arrived.missing == ("no clicks of 2026-01-07, no conversions of 2026-01-07",)
    spec = spec_of(streams(logs, key="ad_id"))
    with pytest.raises(MissingDataError, match=r"the clicks have no column 'ad_id'.*rename"):
        list(open_source(spec.source, tmp_path, (DAY,)).batches(DAY))
    spec = spec_of({**streams(logs), "impressions": {"folder": str(logs / "impressions"),
                                                     "rename": {"ad_id": "clicked"}}})  # fmt: skip
    with pytest.raises(CorruptDataError, match="have a column 'clicked', which the join adds"):
        list(open_source(spec.source, tmp_path, (DAY,)).batches(DAY))
    with pytest.raises(ValueError, match=r"label.attribution_days is 0, but events are joined"):
        spec_of(streams(logs), label={"attribution_days": 0})


@pytest.mark.slow
def test_joined_streams_give_the_same_night_as_one_log(tmp_path):
    reach = 7
    single = spec_of(
        {**SMALL},
        label={"column": "conversion", "event_time": "conversion_time", "attribution_days": reach},
    )
    window = Night.of(single, date(2026, 1, 20))
    first = min(window.train) - timedelta(days=reach)
    days = [first + timedelta(days=n) for n in range((date(2026, 1, 20) - first).days + 1)]
    counts = write_streams(open_source(single.source, tmp_path), Columns(), days, tmp_path / "logs")
    assert counts["impressions"] > counts["clicks"] > counts["conversions"] > 0
    for path in sorted((tmp_path / "logs/clicks").rglob("*.parquet")):
        pa.csv.write_csv(pq.ParquetFile(path).read(), path.with_suffix(".csv"))
        path.unlink()
    joined = streams(tmp_path / "logs", attribution_days=reach)
    joined["clicks"] = {"kind": "csv", "folder": joined["clicks"]}
    three = spec_of(joined, label={"column": "converted"})
    assert three.label.event_time == "conversion_time"
    assert Night.of(three, date(2026, 1, 20)) == window
    one = sampled(single, tmp_path / "a" / "out", date(2026, 1, 20))
    other = sampled(three, tmp_path / "b" / "out", date(2026, 1, 20))
    assert one.rows == other.rows
    for split in ("train", "validate", "evaluate"):
        tables = [
            pa.concat_tables(
                pq.ParquetFile(path).read()
                for path in sorted(
                    (tmp_path / folder / "out").glob(f"split={split}/dt=*/*.parquet")
                )
            )
            for folder in ("a", "b")
        ]
        names = {"click": "clicked", "click_time": "click_time", "conversion": "converted",
                 "conversion_time": "conversion_time"}  # fmt: skip
        same = [KEY, LABEL, TIME, "user_id", "ad_id", "viewability", "interests"]
        for name in same:
            assert tables[0][name].equals(tables[1][name]), name
        for name, as_joined in names.items():
            assert tables[0][name].cast(tables[1][as_joined].type).equals(tables[1][as_joined])
    # Clicks of the same window get labels from the joined rows; nothing is joined again.
    clicks = {"column": "clicked", "event_time": "click_time", "attribution_days": reach}
    spec = three.model_copy(update={"pipeline": "clicks", "label": Label(**clicks)})
    again = sampled(spec, tmp_path / "b" / "clicks", date(2026, 1, 20))
    fresh = sampled(spec, tmp_path / "c" / "clicks", date(2026, 1, 20))
    assert set(again.metrics["rows_of"].values()) == {"t"}
    assert not fresh.metrics["rows_of"]
    assert inventory(tmp_path / "b" / "clicks") == inventory(tmp_path / "c" / "clicks")
    assert again.metrics["days"] == fresh.metrics["days"]
    figures = other.metrics["days"][str(window.evaluate[0])]
    assert figures["conversions_orphans"] == 0
    assert figures["conversions_delay_p95_hours"] > figures["conversions_delay_median_hours"] > 0


def test_data_write_writes_event_streams(tmp_path):
    from typer.testing import CliRunner

    out = CliRunner().invoke(
        data.app,
        ["write", "ctr", "--date", "2026-01-03", "--days", "2", "--streams", "--to", str(tmp_path),
         "--set", "source.rows_per_day=500"],
    )  # fmt: skip
    assert out.exit_code == 0, out.output
    assert "2 days" in out.output
    assert sorted(path.name for path in (tmp_path / "clicks").iterdir()) == [
        "dt=2026-01-03", "dt=2026-01-04",
    ]  # fmt: skip


def test_event_measurements_show_lost_matches_and_slow_clicks():
    usual = {"clicks": 10_000.0, "clicks_orphans": 20.0, "clicks_joined": 9_980.0,
             "clicks_delay_median_hours": 0.1, "clicks_delay_p95_hours": 0.5}  # fmt: skip
    odd = {**usual, "clicks_orphans": 3_000.0, "clicks_delay_p95_hours": 8.0,
           "clicks_repeated": 2_000.0, "clicks_early": 500.0}  # fmt: skip
    all_days = [
        DayProfile(DAY + timedelta(days=n), Profile(), odd if n == 4 else usual) for n in range(5)
    ]
    days = DayProfiles(all_days, (), [day_log.date for day_log in all_days])

    def measured(day):
        measurements = Measurements()
        joined_events.measure(measurements, days, day)
        return {measurement.statistic: measurement.value for measurement in measurements}

    plain, faulty = measured(all_days[0]), measured(all_days[4])
    assert (plain["events_matched:clicks"], plain["event_delay:clicks_p95"]) == (1, 1)
    assert faulty["events_matched:clicks"] == pytest.approx(0.70, abs=0.02)
    assert faulty["event_delay:clicks_p95"] > 10
    assert faulty["event_delay:clicks_median"] == 1
    assert faulty["events_repeated:clicks"] == pytest.approx(1 / 6, abs=0.02)
    assert faulty["events_early:clicks"] == 0.05
    assert not measured(DayProfile(DAY, Profile(), {"read": 3.0}))
