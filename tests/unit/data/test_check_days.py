"""`nightbid data check` finds the days of a folder, its clock and how times are written."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
import yaml
from nightbid.config.load import load_pipeline
from nightbid.data.source import open_source
from nightbid.errors import MissingDataError
from nightbid.sampling.rows import parse
from nightbid.schema import LABEL, TIME
from nightbid.time_parsing import local_time

from .checked import FIRST, ROWS, check, logs, write


def file_digest(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_days_in_another_time_zone_are_detected(tmp_path):
    folder = write(tmp_path / "logs", zone="Asia/Shanghai")
    path = tmp_path / "first.yaml"
    assert "100.0% by the clock of Asia/Shanghai" in check(folder, "--write", path)
    assert load_pipeline(path).source.time_zone == "Asia/Shanghai"


@pytest.mark.parametrize(
    ("form", "zone"),
    [
        ("%d/%m/%Y %H:%M:%S", "UTC"),
        ("%m/%d/%Y %I:%M:%S %p", "UTC"),
        ("%d.%m.%Y %H:%M:%S", "Europe/Berlin"),
        ("%d/%b/%Y:%H:%M:%S %z", "UTC"),
    ],
)
def test_local_time_formats_and_yes_no_labels_are_detected(tmp_path, form, zone):
    """A spreadsheet's export has local times, yes/no flags and names with spaces."""
    for at in range(4):
        day = FIRST + timedelta(days=at)
        table = logs(day, zone).drop_columns(["clicked_at", "dwell", "campaign"]).to_pandas()
        served = table.pop("servedAt").dt.tz_convert(zone)
        table["Date and Time"] = served.dt.strftime(form)
        table["Clicked?"] = np.where(table.pop("is_click"), "Yes", "No")
        (tmp_path / "in").mkdir(exist_ok=True)
        table.to_csv(tmp_path / "in" / f"{day}.csv", sep=";", decimal=",", index=False)
    drafted = tmp_path / "export.yaml"
    check(tmp_path / "in", "--write", drafted)
    spec = load_pipeline(drafted)
    assert spec.source.time_format == form
    assert spec.columns.time == "Date and Time"
    assert spec.label.column == "Clicked?"
    assert spec.label.texts == {"yes": 1, "no": 0}
    source = open_source(spec.source, tmp_path / "cache", (FIRST,))
    rows = pa.Table.from_batches(list(source.batches(FIRST)))
    parsed = parse(rows, spec, {}, "the day")
    expected = logs(FIRST, zone)
    assert parsed.aside.num_rows == 0
    seconds = pc.floor_temporal(expected["servedAt"], unit="second")
    assert parsed.good[TIME].to_pylist() == local_time(seconds, zone).to_pylist()
    assert parsed.good[LABEL].to_pylist() == [
        float(label.as_py()) for label in expected["is_click"]
    ]


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_days_are_taken_from_a_column_if_no_file_name_has_them(tmp_path, kind):
    """Exports are not split by day: a day is in two files, and a file holds many days."""
    days = [FIRST + timedelta(days=at) for at in range(4)]
    whole = pa.concat_tables([logs(day).drop_columns(["campaign"]) for day in days])
    whole = whole.drop_columns(["price[usd]"])  # text gives the same floats with other digits
    half = 2 * ROWS + 100

    def write(name: str, rows: pa.Table, group: int = 250) -> None:
        path = tmp_path / "in" / f"{name}.{kind}"
        path.parent.mkdir(exist_ok=True)
        if kind == "csv":
            pcsv.write_csv(rows, path)
        elif kind == "parquet":
            pq.write_table(rows, path, row_group_size=group)
        else:
            rows.to_pandas().to_json(path, orient="records", lines=True, date_format="iso",
                                     date_unit="us")  # fmt: skip

    write("export (1)", whole.slice(0, half))
    write("export (2)", whole.slice(half))
    drafted = tmp_path / "export.yaml"
    assert "4, 2026-01-05 to 2026-01-08, none missing" in check(tmp_path / "in", "--write", drafted)
    spec = load_pipeline(drafted)
    assert spec.source.day_column == "servedAt"
    source = open_source(spec.source, tmp_path / "cache", tuple(days))
    assert source.days() == tuple(days)
    assert [len(source.files(day)) for day in days] == [1, 1, 2, 1]
    for day in days:
        day_rows = pa.Table.from_batches(list(source.batches(day)))
        expected = logs(day)
        assert day_rows["request_id"].to_pylist() == expected["request_id"].to_pylist()
        assert parse(day_rows, spec, {}, "the day").aside.num_rows == 0
    # The day's key depends on its own rows, not on other days in the same files.
    keys = [source.identity(day, file_digest)["logs"] for day in days]
    late = tmp_path / "in" / f"export (3).{kind}"
    late.write_bytes((tmp_path / "in" / f"export (2).{kind}").read_bytes())
    again = open_source(spec.source, tmp_path / "cache", tuple(days))
    changed = [again.identity(day, file_digest)["logs"] != key
               for day, key in zip(days, keys, strict=True)]  # fmt: skip
    assert changed == [False, False, True, True]
    late.unlink()
    # A file that grows changes only the day of its new rows.
    grown = pa.concat_tables([whole.slice(0, half), whole.slice(len(whole) - 1)])
    write("export (1)", grown, group=180)
    again = open_source(spec.source, tmp_path / "cache", tuple(days))
    changed = [again.identity(day, file_digest)["logs"] != key
               for day, key in zip(days, keys, strict=True)]  # fmt: skip
    assert changed == [False, False, False, True]


@pytest.mark.parametrize("name", ["logs_{first}_{last}", "{last:%Y%m%d}_data_{day:%Y%m%d}"])
def test_days_are_taken_from_a_column_if_file_names_have_others(tmp_path, name):
    """An export is often named by its range, or by the day on which it was made."""
    days = [FIRST + timedelta(days=at) for at in range(4)]
    for day in days:
        path = tmp_path / f"{name.format(day=day, first=FIRST, last=days[-1])}.csv"
        logs(day).to_pandas().to_csv(path, mode="a", header=not path.exists(), index=False)
    report = json.loads(check(tmp_path, "--json"))
    assert report["source"]["day_column"] == "servedAt"
    assert report["days"] == [str(day) for day in days]
    assert "on the day in the name of their file" in report["roles"]["time"]["why"]


def test_utc_times_without_a_zone_in_local_days_are_not_shifted(tmp_path):
    def change(table: pa.Table) -> pa.Table:
        times = table["servedAt"].cast(pa.timestamp("us"))
        return table.set_column(table.column_names.index("servedAt"), "servedAt", times)

    write(tmp_path / "plain", change=change, zone="America/New_York")
    write(tmp_path / "zoned", zone="America/New_York")
    report = json.loads(check(tmp_path / "plain", "--json"))
    assert report["source"]["day_column"] == "servedAt"
    assert "time_zone" not in report["yaml"]
    report = json.loads(check(tmp_path / "zoned", "--json"))
    assert "day_column" not in report["source"]
    assert "time_zone: America/New_York" in report["yaml"]


def test_a_date_without_a_time_of_day_is_reported(tmp_path):
    for at in range(3):
        day = FIRST + timedelta(days=at)
        rows = [f"{at}-{n},{day},14:{n:02d}:00,u{n % 9},{n % 5},{n % 2}" for n in range(60)]
        text = "\n".join(["id,date,time,user,ad,click", *rows, ""])
        (tmp_path / f"{day}.csv").write_text(text)
    report = json.loads(check(tmp_path, "--json"))
    assert report["roles"]["time"]["column"] == "date"
    assert "no time of day: log date and time in one column" in report["roles"]["time"]["why"]
    draft = yaml.safe_load(report["yaml"])
    assert "hour_of_day" not in draft["features"]
    assert "weekday" in draft["features"]


def test_an_unknown_time_format_is_reported_with_an_example(tmp_path):
    for at in range(3):
        day = FIRST + timedelta(days=at)
        table = logs(day).drop_columns(["servedAt", "clicked_at"])
        table = table.append_column("time", pa.array(["5th of January, noon"] * len(table)))
        (tmp_path / "in").mkdir(exist_ok=True)
        pcsv.write_csv(table.drop_columns(["campaign"]), tmp_path / "in" / f"{day}.csv")
    with pytest.raises(MissingDataError, match=r"'time' holds '5th of January, noon'.*time_format"):
        check(tmp_path / "in")
