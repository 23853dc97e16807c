"""`nightbid data check` describes a folder and drafts a valid pipeline."""

from __future__ import annotations

import json
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pytest
import yaml
from nightbid.config.load import load_pipeline
from nightbid.errors import ConfigError, CorruptDataError, MissingDataError

from .checked import FIRST, ROWS, check, logs, write


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


def test_the_impressions_of_a_request_are_all_kept(tmp_path):
    def two_slots(table: pa.Table) -> pa.Table:
        place = table.column_names.index("slot")
        slots = (table.set_column(place, "slot", pa.array([at] * ROWS)) for at in (1, 2))
        return pa.concat_tables(slots)

    folder = write(tmp_path / "logs", change=two_slots)
    printed = check(folder, "--write", tmp_path / "first.yaml")
    assert "request_id names a request, whose rows differ in slot" in printed
    assert "join clicks" not in printed
    spec = load_pipeline(tmp_path / "first.yaml")
    assert spec.source.make_key == spec.columns.key == "impression_id"
    assert "request_id" not in spec.features


def test_columns_of_single_days_scores_and_ids_become_no_wrong_features(tmp_path):
    days = iter(range(4))

    def change(table: pa.Table) -> pa.Table:
        names = [{"device": "client"}.get(name, name) for name in table.column_names]
        if next(days) < 2:
            table = table.rename_columns(names)
        place = table.column_names.index("creative_id")
        items = pa.array([str(at % 200) for at in range(ROWS)])
        table = table.set_column(place, "creative_id", items)
        table = table.append_column(
            "sdk", pa.array([["1.1", "1.10"][at % 2] for at in range(ROWS)])
        )
        table = table.append_column("bid_micros", pa.array(range(ROWS)))
        return table.append_column("pctr", pa.array([at / ROWS for at in range(ROWS)]))

    folder = write(tmp_path / "logs", change=change)
    printed = check(folder, "--write", tmp_path / "first.yaml")
    assert "absent   client: no value on 2026-01-07, 2026-01-08" in printed
    assert "absent   device: no value on 2026-01-05" in printed
    assert "score    pctr: probabilities of another model" in printed
    text = (tmp_path / "first.yaml").read_text()
    assert "# baseline: {column: pctr}" in text
    assert "client (no value on 2026-01-08" in text
    spec = load_pipeline(tmp_path / "first.yaml")
    assert not {"client", "pctr", "bid_micros"} & spec.features.keys()
    assert {spec.features[name].transform for name in ("creative_id", "sdk", "device")} == {
        "vocabulary"
    }
    assert spec.columns.bid == "bid_micros"


def test_one_day_and_one_repeated_row_are_written_as_one(tmp_path):
    folder = write(
        tmp_path / "logs", 1, change=lambda table: pa.concat_tables([table, table.slice(0, 1)])
    )
    path = tmp_path / "first.yaml"
    printed = check(folder, "--write", path)
    assert "key      1 row with the request_id of an earlier row" in printed
    assert "repeated keys: 1 row of the sample, left out" in path.read_text()
    assert f"the folder has 1 day, {FIRST} to {FIRST}" in path.read_text()


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
