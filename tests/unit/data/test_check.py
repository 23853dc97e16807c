"""`nightbid data check` describes a folder and drafts a valid pipeline."""

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
from nightbid.errors import ConfigError, CorruptDataError, MissingDataError
from nightbid.sampling.rows import parse
from nightbid.schema import LABEL, TIME
from nightbid.time_parsing import local_time

from .checked import FIRST, ROWS, check, logs, write


def file_digest(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "ad logs")


def test_data_check_drafts_a_pipeline_that_loads(folder, tmp_path):
    path = tmp_path / "pipelines" / "first.yaml"
    printed = check(folder, "--write", path)
    assert "is_click: rate 0.1" in printed
    assert "price[usd]" in printed
    assert "nightbid run first --date 2026-01-08 --until gate_raw" in printed
    spec = load_pipeline(path)
    roles = spec.columns
    assert (roles.key, roles.time, roles.user, roles.item, roles.position) == (
        "request_id", "servedAt", "uid", "creative_id", "slot")  # fmt: skip
    assert (spec.label.column, spec.label.event_time) == ("is_click", "clicked_at")
    assert spec.source.outcomes == ("dwell",)
    assert spec.window.train_days == 2
    assert {"device", "price_usd", "creative_id", "hour_of_day", "user_rate"} <= set(spec.features)
    assert "campaign" not in spec.features  # it has no values
    assert "only where is_click is 1" in path.read_text()
    with pytest.raises(ConfigError, match="already exists"):
        check(folder, "--write", path)


def test_json_output_matches_the_printed_report(folder):
    report = json.loads(check(folder, "--json"))
    assert report["days"] == [str(FIRST + timedelta(days=at)) for at in range(4)]
    assert report["roles"]["user"]["column"] == "uid"
    assert report["labels"][0]["column"] == "is_click"
    assert set(report["outcomes"]) == {"dwell", "clicked_at"}
    assert report["missing"] == {}


def test_values_that_mean_no_user_are_drafted(tmp_path):
    def change(table: pa.Table) -> pa.Table:
        at = np.arange(ROWS)
        users = np.array([str(user) for user in table["uid"].to_pylist()], object)
        users[at % 10 < 3] = "no-consent-given"
        users[at % 10 == 3] = "-"
        users[at % 10 == 4] = "0" * 32
        place = table.column_names.index("uid")
        return table.set_column(place, "uid", pa.array(users.tolist(), pa.string()))

    folder, path = write(tmp_path / "logs", change=change), tmp_path / "first.yaml"
    printed = check(folder, "--write", path)
    assert (
        "user     50.0% of the rows have no user (10.0% null, empty or zeros,"
        " 30.0% 'no-consent-given', 10.0% '-')" in printed
    )
    assert load_pipeline(path).columns.anonymous == ("no-consent-given", "-")
    report = json.loads(check(folder, "--json"))
    assert report["anonymous"]["values"] == pytest.approx({"no-consent-given": 0.3, "-": 0.1})
    # Users of usual frequency are not, whatever they are called.
    plain = check(write(tmp_path / "plain"), "--write", tmp_path / "second.yaml")
    assert "have no user" not in plain
    assert load_pipeline(tmp_path / "second.yaml").columns.anonymous == ()


def test_all_missing_roles_are_reported_at_once(tmp_path):
    folder = write(tmp_path / "logs", change=lambda table: table.select(["request_id", "device"]))
    path = tmp_path / "first.yaml"
    with pytest.raises(MissingDataError, match=r"no column for time, label: .*\?\?\?"):
        check(folder, "--write", path)
    assert path.read_text().count("???") == 2


def test_days_in_another_time_zone_are_detected(tmp_path):
    folder = write(tmp_path / "logs", zone="Asia/Shanghai")
    path = tmp_path / "first.yaml"
    assert "100.0% by the clock of Asia/Shanghai" in check(folder, "--write", path)
    assert load_pipeline(path).source.time_zone == "Asia/Shanghai"


def test_a_key_is_generated_if_none_is_logged_and_repeats_are_counted(tmp_path):
    folder = write(tmp_path / "logs", change=lambda table: table.drop_columns("request_id"))
    path = tmp_path / "first.yaml"
    check(folder, "--write", path)
    spec = load_pipeline(path)
    assert (spec.source.make_key, spec.columns.key) == ("impression_id", "impression_id")
    again = write(
        tmp_path / "again", change=lambda table: pa.concat_tables([table, table.slice(0, 9)])
    )
    assert json.loads(check(again, "--json"))["repeated_keys"] == 27


def test_csv_encoding_delimiter_and_decimal_mark_are_detected(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    for at in range(3):
        day = FIRST + timedelta(days=at)
        table = logs(day).drop_columns(["dwell", "clicked_at"])
        comma = pa.array(
            [f"{price:.2f}".replace(".", ",") for price in table["price[usd]"].to_pylist()]
        )
        table = table.set_column(5, "Größe", comma)
        path = folder / f"{day}.csv"
        pcsv.write_csv(table, path, pcsv.WriteOptions(delimiter=";"))
        path.write_bytes(path.read_bytes().decode().encode("latin-1"))
    report = json.loads(check(folder, "--json"))
    block = {key: report["source"].get(key) for key in ("kind", "encoding", "delimiter", "decimal")}
    assert block == {"kind": "csv", "encoding": "cp1252", "delimiter": ";", "decimal": ","}
    assert {column["name"]: column["kind"] for column in report["columns"]}["Größe"] == "number"


def test_an_excel_csv_export_is_detected_and_read(tmp_path):
    """The file is Windows-1252, names its delimiter first, and writes days in a locale's format."""
    for at in range(3):
        day = FIRST + timedelta(days=at)
        sizes = ["„0 €“", "„1 €“", "NULL"]
        rows = [f"{at}-{n};{day:%d.%m.%Y} 14:{n:02d};u{n % 9};{n % 5};{sizes[n % 3]};{n % 2}"
                for n in range(60)]  # fmt: skip
        text = "\r\n".join(["sep=;", "Request ID;Served At;User;Ad;Größe;click", *rows, ""])
        (tmp_path / f"{day}.csv").write_bytes(text.encode("cp1252"))
    (tmp_path / f"{FIRST + timedelta(days=2)}-empty.csv").touch()
    report = json.loads(check(tmp_path, "--json"))
    assert report["source"] == {
        "kind": "csv", "folder": str(tmp_path), "encoding": "cp1252", "delimiter": ";",
        "nulls": ["NULL"], "time_format": "%d.%m.%Y %H:%M",
    }  # fmt: skip
    assert {name: role["column"] for name, role in report["roles"].items()} == {
        "time": "Served At", "key": "Request ID", "user": "User", "item": "Ad",
    }  # fmt: skip
    size = {column["name"]: column for column in report["columns"]}["Größe"]
    assert sorted(size["examples"]) == ["„0 €“", "„1 €“"]
    assert size["nulls"] == pytest.approx(1 / 3)


def test_quotes_after_backslashes_are_detected(tmp_path):
    """Spark writes texts with quotation marks in this way."""
    for at in range(3):
        day = FIRST + timedelta(days=at)
        texts = [
            f'"{{\\"shop\\": {n % 3}, \\"new\\": 1}}"' if n % 2 else "plain" for n in range(60)
        ]
        rows = [f"{at}-{n},{day} 14:{n:02d}:00,u{n % 9},{n % 5},{texts[n]},{n % 2}"
                for n in range(60)]  # fmt: skip
        text = "\n".join(["id,time,user,ad,context,click", *rows, ""])
        (tmp_path / f"{day}.csv").write_text(text)
    report = json.loads(check(tmp_path, "--json"))
    assert report["source"]["quote_escape"] == "backslash"
    context = {column["name"]: column for column in report["columns"]}["context"]
    assert '{"shop": 1, "new": 1}' in context["examples"]
    assert report["unread"] == {}


@pytest.mark.parametrize("kind", ["float", "texts", "both"])
def test_ids_written_as_floats_are_recognized_as_ids(tmp_path, kind):
    def change(table: pa.Table) -> pa.Table:
        floats = table["uid"].cast(pa.float64())
        texts = [f"{n}.0" if kind == "texts" or at % 2 else str(n)
                 for at, n in enumerate(table["uid"].to_pylist())]  # fmt: skip
        column = floats if kind == "float" else pa.array(texts)
        return table.set_column(table.column_names.index("uid"), "uid", column)

    report = json.loads(check(write(tmp_path / "logs", change=change), "--json"))
    user = report["roles"]["user"]
    assert user["column"] == "uid"
    draft = yaml.safe_load(report["yaml"])
    assert draft["source"].get("types") == ({"uid": "int"} if kind == "both" else None)


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        (
            "2026-01-05.csv.bz2",
            "BZh9 damaged",
            CorruptDataError,
            "cannot be read: .*→ copy it again",
        ),
        ("notes.docx", "x", MissingDataError, "no file of a known format; the folder has notes"),
        ("logs.csv", "a,b\n1,2\n", MissingDataError, "no file of the folder belongs to a day"),
        ("2026-01-05.csv", "1,2026-01-05,3\n", CorruptDataError, "has no header"),
        (
            "2026-01-05.csv",
            "0,2026-01-05T06:21:57Z,u5,US\n1,2026-01-05T07:00:01Z,u7,DE\n",
            CorruptDataError,
            "has no header: its first line is '0,2026",
        ),
    ],
)
def test_unusable_folders_are_reported_in_one_line(tmp_path, name, text, error, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(error, match=message) as caught:
        check(tmp_path)
    assert "\n" not in str(caught.value)


def test_json_lines_are_described(tmp_path):
    folder = tmp_path / "events"
    folder.mkdir()
    for at in range(3):
        day = FIRST + timedelta(days=at)
        frame = logs(day).to_pandas()
        frame.to_json(folder / f"{day}.jsonl", orient="records", lines=True, date_format="iso")
    path = tmp_path / "first.yaml"
    check(folder, "--write", path)
    spec = load_pipeline(path)
    assert (spec.source.kind, spec.columns.time, spec.label.column) == (
        "jsonl",
        "servedAt",
        "is_click",
    )


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


def test_a_generated_key_has_a_name_of_its_own_and_copied_rows_keep_their_key(tmp_path):
    def again(table: pa.Table, times: int) -> pa.Table:
        name = table.column_names.index("request_id")
        table = table.rename_columns(
            [
                "impression_id" if at == name else other
                for at, other in enumerate(table.column_names)
            ]
        )
        return pa.concat_tables([table] * times)

    for times, expected in ((2, "impression_id"), (8, "generated_key")):
        folder = write(tmp_path / f"{times}", change=lambda table, times=times: again(table, times))
        draft = yaml.safe_load(json.loads(check(folder, "--json"))["yaml"])
        assert draft["columns"]["key"] == expected
        assert draft["source"].get("make_key") == (expected if times == 8 else None)


def test_columns_whose_files_have_other_types_are_read_as_text(tmp_path):
    def change(table: pa.Table) -> pa.Table:
        price = table.column_names.index("price[usd]")
        texts.append(len(texts))
        return table if len(texts) % 2 else table.set_column(
            price, "price[usd]", table["price[usd]"].cast(pa.string()))  # fmt: skip

    texts: list[int] = []
    report = json.loads(check(write(tmp_path / "logs", change=change), "--json"))
    draft = yaml.safe_load(report["yaml"])
    assert draft["source"]["types"] == {"price[usd]": "string"}
    assert {column["name"]: column["type"] for column in report["columns"]}[
        "price[usd]"
    ] == "string"


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
