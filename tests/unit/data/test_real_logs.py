"""Logs as other tools write them: each is read correctly, or refused in one clear line.

Where else situations of real logs are tested:

| Situation | Tests |
| --- | --- |
| ids beyond 2^53, wider types, few clicks in an evening | `gates/test_values_of_logs.py` |
| weekdays, prices as text, thousands separators, 3.4e38 | `features/test_unreadable.py` |
| names like `nb_…`, categories, UUIDs, spellings of labels | `sampling/test_values.py` |
| a column left out one night and named the next | `sampling/test_days.py` |
| decimals, times and null columns over HTTP; fractions | `serving/test_json_values.py` |
| outcomes, positions, inputs of one name | `config/test_load.py`, `sampling/test_values.py` |
| every type in every role | `data/test_readers.py` |
| clocks that change, values that look like markup | `pipeline/test_data_check.py` |
| days by the names of folders and files | `data/test_day_folders.py` |
| compression, quotation marks after backslashes, headers within files | `data/test_text_files.py` |
| Criteo, Avazu, Open Bandit | `pipeline/test_formats.py` |
"""

from __future__ import annotations

import gzip
import re
from datetime import date
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.orc as orc
import pyarrow.parquet as pq
import pytest
from nightbid.config.folder_source import FolderSource
from nightbid.config.load import parse_pipeline
from nightbid.data import delimited
from nightbid.data.folder import FolderLogs
from nightbid.data.window_columns import OTHER_COLUMNS
from nightbid.errors import ConfigError, CorruptDataError, MissingDataError
from nightbid.schema import REASON, TEXT

DAYS = (date(2026, 1, 5), date(2026, 1, 6))
DAY = DAYS[0]


def opened(folder, kind="csv", days=(), **options) -> FolderLogs:
    return FolderLogs(FolderSource(kind=kind, folder=str(folder), **options), days)


def read(logs: FolderLogs, day: date = DAY) -> pa.Table:
    return pa.Table.from_batches(list(logs.batches(day)))


def write_csv(folder, text: str | bytes, name: str = f"{DAY}.csv"):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def write_parts(folder, *tables: pa.Table, day: date = DAY):
    (folder / f"dt={day}").mkdir(exist_ok=True)
    for at, table in enumerate(tables):
        pq.write_table(table, folder / f"dt={day}" / f"part-{at}.parquet")
    return folder


def one_line(caught) -> str:
    text = str(caught.value)
    assert "\n" not in text
    return text


# Text files


def test_an_unnamed_index_column_is_dropped(tmp_path):
    write_csv(tmp_path, ",key,price\n0,a,1.5\n1,b,2.5\n")
    table = read(opened(tmp_path))
    assert table.column_names == ["key", "price", REASON, TEXT]
    assert table["price"].to_pylist() == [1.5, 2.5]


def test_a_trailing_delimiter_is_ignored(tmp_path):
    write_csv(tmp_path, "key,price,\na,1.5,\nb,2.5,\n")
    assert read(opened(tmp_path))["key"].to_pylist() == ["a", "b"]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_separator_line_before_the_header_is_skipped(tmp_path, mark, packed):
    data = f"{mark}sep=;\r\nkey;price\r\na;1,5\r\nb;2,5\r\n".encode()
    name = f"{DAY}.csv" + (".gz" if packed else "")
    write_csv(tmp_path, gzip.compress(data) if packed else data, name)
    table = read(opened(tmp_path, delimiter=";", decimal=","))
    assert table.to_pylist() == [
        {"key": key, "price": price, REASON: None, TEXT: None}
        for key, price in (("a", 1.5), ("b", 2.5))
    ]


def test_a_header_that_resembles_a_separator_line_is_kept(tmp_path):
    write_csv(tmp_path, "sep=\na\n")
    assert read(opened(tmp_path)).column_names == ["sep=", REASON, TEXT]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_an_empty_text_file_has_no_rows(tmp_path, kind):
    """Jobs leave an empty file when they have no rows to write."""
    folder = tmp_path / f"dt={DAY}"
    folder.mkdir()
    text = "key,price\na,1.5\n" if kind == "csv" else '{"key": "a", "price": 1.5}\n'
    (folder / f"part-0.{kind}").touch()
    (folder / f"part-1.{kind}").write_text(text)
    (folder / f"part-2.{kind}.gz").write_bytes(gzip.compress(b""))
    assert read(opened(tmp_path, kind))["price"].to_pylist() == [1.5]
    named = FolderLogs(FolderSource(kind=kind, folder=str(tmp_path)), [DAY], named={"price"})
    assert read(named)["price"].to_pylist() == [1.5]


def test_floats_without_a_fraction_are_read_as_int_if_declared(tmp_path):
    write_csv(tmp_path, "user,price\n1234.0,1\n1234,1\n-7.00,1\n1.5,1\n,1\n")
    rows = read(opened(tmp_path, types={"user": "int"})).to_pylist()
    assert [row["user"] for row in rows] == [1234, 1234, -7, None, None]
    assert [row[REASON] for row in rows] == [None] * 3 + ["user is not a whole number", None]


def test_lines_that_are_not_json_objects_are_set_aside(tmp_path):
    lines = ['{"key": "a", "n": 1}', '{"key": "b", "n"', "", "[1]", '{"key": "c", "n": NaN}',
             '{"key": "d", "key": "e"}', '{"key": "f", "n": 12345678901234567890}']  # fmt: skip
    (tmp_path / f"{DAY}.jsonl").write_bytes(("\r\n".join(lines) + "\r\n").encode() + b'"\xff"\n')
    table = read(opened(tmp_path, "jsonl"))
    good = table.filter(pc.is_null(table[REASON]))
    assert good["key"].to_pylist() == ["a", "c", "f"]
    assert good["n"].to_pylist() == ["1", None, "12345678901234567890"]
    aside = table.filter(pc.is_valid(table[REASON]))
    assert set(aside[REASON].to_pylist()) == {"line is not a JSON object"}
    assert aside[TEXT].to_pylist() == [lines[1], lines[3], lines[5], '"\\xff"']
    (tmp_path / f"{DAY}.jsonl").write_text('{"key": "a"}\n{"key": ')
    with pytest.raises(CorruptDataError, match="may be cut off"):
        read(opened(tmp_path, "jsonl"))


def test_a_json_array_is_rejected(tmp_path):
    (tmp_path / f"{DAY}.json").write_text('[{"key": "a"},\n {"key": "b"}]\n')
    with pytest.raises(CorruptDataError, match="is one JSON array, not one object per line"):
        read(opened(tmp_path, "jsonl"))


def test_a_duplicate_column_name_is_rejected(tmp_path):
    write_csv(tmp_path, "key,price,price\na,1,2\n")
    with pytest.raises(CorruptDataError, match="two columns are called 'price'") as caught:
        read(opened(tmp_path))
    assert f"{DAY}.csv" in one_line(caught)


@pytest.mark.parametrize("kind", ["parquet", "orc"])
def test_a_duplicate_column_name_of_typed_files_is_rejected(tmp_path, kind):
    table = pa.table([pa.array([1]), pa.array([2])], names=["price", "price"])
    path = tmp_path / f"{DAY}.{kind}"
    (pq.write_table if kind == "parquet" else orc.write_table)(table, path)
    with pytest.raises(CorruptDataError, match="two columns are called 'price'") as caught:
        read(opened(tmp_path, kind))
    assert path.name in one_line(caught)


@pytest.mark.parametrize(
    ("encoding", "message"), [("latin-1", "is not utf-8"), ("utf-16", "looks like UTF-16")]
)
def test_another_encoding_is_reported_and_can_be_set(tmp_path, encoding, message):
    write_csv(tmp_path, "key,größe\na,1\nb,2\n".encode(encoding))
    opened(tmp_path).fingerprint((DAY,))
    with pytest.raises(CorruptDataError, match=message) as caught:
        read(opened(tmp_path))
    assert "source.encoding" in one_line(caught)
    assert read(opened(tmp_path, encoding=encoding))["größe"].to_pylist() == [1, 2]


def test_an_unknown_encoding_is_rejected():
    source = "{kind: csv, folder: x, encoding: latin-99}"
    with pytest.raises(ConfigError, match="'latin-99' is not an encoding"):
        parse_pipeline(f"pipeline: p\nfeatures: {{a: vocabulary}}\nsource: {source}", "p.yaml")


def test_csv_settings_are_rejected_for_parquet():
    source = "{kind: parquet, folder: x, nulls: [NA]}"
    with pytest.raises(ConfigError, match="nulls is for `kind: csv`"):
        parse_pipeline(f"pipeline: p\nfeatures: {{a: vocabulary}}\nsource: {source}", "p.yaml")


def test_quoted_line_breaks_are_kept_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 500)
    rows = "".join(f'{at},"two\nlines, {at}\n\nand a blank",x\n' for at in range(300))
    write_csv(tmp_path, f"key,text,last\n{rows}\n")
    table = read(opened(tmp_path))
    assert table["key"].to_pylist() == list(range(300))
    assert table["text"].to_pylist()[299] == "two\nlines, 299\n\nand a blank"
    assert table[REASON].null_count == 300


@pytest.mark.parametrize("packed", [False, True])
def test_bare_quotes_in_tsv_files_are_kept_as_text(tmp_path, packed):
    lines = [f"{at}\t{chr(34) if at % 200 == 0 else ''}text {at}\t1" for at in range(2000)]
    data = "\n".join(["key\ttitle\tclick", *lines, ""]).encode()
    name = f"{DAY}.tsv" + (".gz" if packed else "")
    write_csv(tmp_path, gzip.compress(data) if packed else data, name)
    table = read(opened(tmp_path))
    assert table["key"].to_pylist() == list(range(2000))
    assert table["title"].to_pylist()[200] == '"text 200'


def test_an_unclosed_quote_is_reported_with_its_column(tmp_path):
    lines = [f"{at},{chr(34) if at in (100, 150) else ''}text {at},1" for at in range(200)]
    write_csv(tmp_path, "\n".join(["key,title,click", *lines, ""]))
    table = read(opened(tmp_path))
    aside = table.filter(pc.is_valid(table[REASON])).to_pylist()
    assert [row[REASON] for row in aside] == [
        "title holds whole lines: is a quotation mark never closed?"
    ]
    assert len(read(opened(tmp_path, quoting=False))) == 200


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["20260105000000000001", "20260105000000000002"], None),
        (["18446744073709551615", "1"], None),
        (["01234", "1234"], None),
        (["0x1F", "7"], None),
        (["+1", "2"], None),
        (["9007199254740993", "1.5"], None),
        (["9007199254740993", "1"], [9007199254740993, 1]),
        (["1", "", "NA"], [1, None, None]),
        (["0", "1.50"], [0.0, 1.5]),
        (["0", "TRUE", "1", "false"], [False, True, True, False]),
        (["1", "2", "TRUE"], None),
        (["1", "cheap"], None),
        (["2026-01-05", "12"], None),
    ],
)
@pytest.mark.parametrize("apart", [False, True])
def test_inferred_types_preserve_every_text_of_the_window(tmp_path, texts, values, apart):
    if apart:  # the last text is in the file of another day
        write_csv(tmp_path, "\n".join(["v,w", *(f"{t},x" for t in texts[:-1]), ""]))
        write_csv(tmp_path, f"v,w\n{texts[-1]},x\n", f"{DAYS[1]}.csv")
    else:
        write_csv(tmp_path, "\n".join(["v,w", *(f"{t},x" for t in texts), ""]))
    logs = opened(tmp_path)
    table = pa.concat_tables(read(logs, day) for day in logs.days())
    assert table["v"].to_pylist() == (values or texts)
    assert table[REASON].null_count == len(texts)


def test_types_are_inferred_from_the_window_only(tmp_path):
    write_csv(tmp_path, "v\n1\n")
    write_csv(tmp_path, "v\nx\n", f"{DAYS[1]}.csv")
    assert read(opened(tmp_path, days=(DAY,)))["v"].to_pylist() == [1]
    assert read(opened(tmp_path))["v"].to_pylist() == ["1"]


@pytest.mark.parametrize("key", ["types", "outcomes"])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_misspelled_column_is_rejected_with_a_suggestion(tmp_path, kind, key):
    write_csv(tmp_path, "zip\n01234\n")
    write_parts(tmp_path, pa.table({"zip": ["01234"]}))
    options = {key: {"zipp": "string"} if key == "types" else ("zipp",)}
    with pytest.raises(MissingDataError, match=rf"source\.{key} names the column 'zipp'") as caught:
        read(opened(tmp_path, kind, **options))
    assert "did you mean 'zip'?" in one_line(caught)


def test_decimal_commas_and_null_texts_are_read_if_declared(tmp_path):
    write_csv(tmp_path, "key;price;device\na;2,34;NA\nb;1.234,5;null\nc;7;phone\nd;null;\n")
    table = read(opened(tmp_path, delimiter=";", decimal=",", nulls=("null", "NA")))
    assert table["price"].to_pylist() == [2.34, 1234.5, 7.0, None]
    assert table["device"].to_pylist() == [None, None, "phone", None]
    plain = read(opened(tmp_path, delimiter=";"))
    assert plain["device"].to_pylist() == ["NA", "null", "phone", None]
    assert plain["price"].to_pylist()[:3] == ["2,34", "1.234,5", "7"]


# Parquet


@pytest.mark.parametrize(
    ("one", "other", "values"),
    [
        (pa.nulls(1), pa.array(["x"]), [None, "x"]),
        (pa.array([1], pa.int32()), pa.array([2**40]), [1, 2**40]),
        (pa.array([1]), pa.array([1.87]), [1.0, 1.87]),
        (pa.array([1], pa.uint8()), pa.array([-1], pa.int8()), [1, -1]),
        (pa.array([2**63], pa.uint64()), pa.array([-1]), [str(2**63), "-1"]),
        (pa.array([7]), pa.array(["007"]), ["7", "007"]),
        (pa.array(["a"]).dictionary_encode(), pa.array(["b"]), ["a", "b"]),
        (
            pa.array([Decimal("1.5")]),
            pa.array([Decimal("1.25")]),
            [Decimal("1.5"), Decimal("1.25")],
        ),
        (pa.array([True]), pa.array([0]), [1, 0]),
        (pa.array([[1]]), pa.array([[]], pa.list_(pa.null())), [[1], []]),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("apart", [False, True])
def test_types_of_part_files_are_widened(tmp_path, one, other, values, swapped, apart):
    parts = [pa.table({"v": column}) for column in (one, other)][:: -1 if swapped else 1]
    if apart:
        for day, part in zip(DAYS, parts, strict=True):
            write_parts(tmp_path, part, day=day)
    else:
        write_parts(tmp_path, *parts)
    logs = opened(tmp_path, "parquet")
    table = pa.concat_tables(read(logs, day) for day in logs.days())
    assert table["v"].to_pylist() == values[:: -1 if swapped else 1]


@pytest.mark.parametrize("values", [pa.array(["x"]), pa.array([[1]]), pa.array([True])])
def test_incompatible_types_of_part_files_are_rejected(tmp_path, values):
    write_parts(tmp_path, pa.table({"v": [1.5]}), pa.table({"v": values}))
    with pytest.raises(CorruptDataError, match="column 'v' does not have the same type") as caught:
        read(opened(tmp_path, "parquet"))
    text = one_line(caught)
    assert "part-1.parquet" in text
    assert "part-0.parquet" in text
    assert str(values.type).split("<")[0] in text
    assert "double" in text


def test_an_integer_that_a_float_would_round_is_rejected(tmp_path):
    write_parts(tmp_path, pa.table({"v": [1.5]}), pa.table({"v": [2**53 + 1]}))
    with pytest.raises(CorruptDataError, match="column 'v' is int64 here and double") as caught:
        read(opened(tmp_path, "parquet"))
    assert "part-1.parquet" in one_line(caught)


def test_declared_types_are_applied_to_parquet(tmp_path):
    table = pa.table({"zip": [1234, None], "price": ["1.5", "cheap"], "seen": [1767571200, None]})
    write_parts(tmp_path, table)
    types = {"zip": "string", "price": "float", "seen": "time"}
    rows = read(opened(tmp_path, "parquet", types=types)).to_pylist()
    assert [row["zip"] for row in rows] == ["1234", None]
    assert [row["price"] for row in rows] == [1.5, None]
    assert [row[REASON] for row in rows] == [None, "price is not a number"]
    assert rows[1][TEXT] == "cheap"
    assert rows[0]["seen"].date() == DAY


# Wide logs


def wide(folder, kind: str, columns: int = 300, **extra):
    (folder / f"dt={DAY}").mkdir(exist_ok=True)
    table = pa.table({"click": [0, 1], **{f"c{at}": [at, at] for at in range(columns)}, **extra})
    path = folder / f"dt={DAY}" / f"part.{kind}"
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        pcsv.write_csv(table, path)
    return folder


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_wide_logs_are_read_with_named_columns_and_a_few_others(tmp_path, kind):
    folder = wide(tmp_path, kind, note=["one\ntwo", "three"])
    block = FolderSource(kind=kind, folder=str(folder))
    logs = FolderLogs(block, [DAY], named={"click", "c299", "absent"})
    names = [name for name in read(logs).column_names if name not in (REASON, TEXT)]
    assert {"click", "c299"} <= set(names)
    assert len(names) == 2 + OTHER_COLUMNS
    # The columns to read are part of the rows' identity: another column, another fingerprint.
    prints = {FolderLogs(block, [DAY], named={"click", name}).fingerprint((DAY,)) for name in
              ("c1", "c298", "c299")}  # fmt: skip
    assert len(prints) == 3
    narrow = FolderLogs(block, [DAY])
    assert len(read(narrow).column_names) >= 302


def test_unnamed_columns_with_incompatible_types_are_dropped(tmp_path):
    one = pa.table({"click": [0], "note": ["a"], "only": [1]})
    other = pa.table({"click": [1], "note": [[1.5]], "late": [1]})
    write_parts(tmp_path, one, other)
    logs = FolderLogs(FolderSource(kind="parquet", folder=str(tmp_path)), [DAY], named={"click"})
    assert read(logs)["click"].to_pylist() == [0, 1]
    assert "note" not in read(logs).column_names  # no type fits both
    named = FolderLogs(
        FolderSource(kind="parquet", folder=str(tmp_path)), [DAY], named={"click", "note"}
    )
    with pytest.raises(CorruptDataError, match="note"):
        read(named)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ('schedule: "@hourly"', "'@hourly' runs more than once a day"),
        ('schedule: "*/30 3 * * *"', "more than once a day"),
        (
            "source: {kind: parquet, folder: 'hdfs://x/logs'}",
            "neither a folder nor gs://, s3:// or bq://",
        ),
        ("source: {kind: parquet, folder: x, time_zone: Europe/Berln}", "Europe/Berlin"),
    ],
)
def test_sources_and_schedules_that_cannot_work_are_rejected(block, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        parse_pipeline(f"pipeline: p\nfeatures: {{ad_id: vocabulary}}\n{block}\n", "p.yaml")
    assert one_line(caught)
