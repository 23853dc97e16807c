"""Text logs as other tools write them: each is read correctly, or refused in one clear line.

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
| part files that disagree on types, logs of many columns | `data/test_part_files.py` |
| compression, quotation marks after backslashes, headers within files | `data/test_text_files.py` |
| Criteo, Avazu, Open Bandit | `pipeline/test_formats.py` |
"""

from __future__ import annotations

import gzip
import re

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from nightbid.config.folder_source import FolderSource
from nightbid.config.load import parse_pipeline
from nightbid.data import delimited
from nightbid.data.folder import FolderLogs
from nightbid.errors import ConfigError, CorruptDataError, MissingDataError
from nightbid.schema import REASON, TEXT

from .folders import DAY, DAYS, one_line, opened, read, write_csv, write_parts


def test_an_unnamed_index_column_is_dropped(tmp_path):
    write_csv(tmp_path, ",key,price\n0,a,1.5\n1,b,2.5\n")
    table = read(opened(tmp_path, "csv"))
    assert table.column_names == ["key", "price", REASON, TEXT]
    assert table["price"].to_pylist() == [1.5, 2.5]


def test_a_trailing_delimiter_is_ignored(tmp_path):
    write_csv(tmp_path, "key,price,\na,1.5,\nb,2.5,\n")
    assert read(opened(tmp_path, "csv"))["key"].to_pylist() == ["a", "b"]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_separator_line_before_the_header_is_skipped(tmp_path, mark, packed):
    data = f"{mark}sep=;\r\nkey;price\r\na;1,5\r\nb;2,5\r\n".encode()
    name = f"{DAY}.csv" + (".gz" if packed else "")
    write_csv(tmp_path, gzip.compress(data) if packed else data, name)
    table = read(opened(tmp_path, "csv", delimiter=";", decimal=","))
    assert table.to_pylist() == [
        {"key": key, "price": price, REASON: None, TEXT: None}
        for key, price in (("a", 1.5), ("b", 2.5))
    ]


def test_a_header_that_resembles_a_separator_line_is_kept(tmp_path):
    write_csv(tmp_path, "sep=\na\n")
    assert read(opened(tmp_path, "csv")).column_names == ["sep=", REASON, TEXT]


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
    rows = read(opened(tmp_path, "csv", types={"user": "int"})).to_pylist()
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
    assert set(aside[REASON].to_pylist()) == {"line is not a JSON object", "line is not UTF-8"}
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
        read(opened(tmp_path, "csv"))
    assert f"{DAY}.csv" in one_line(caught)


@pytest.mark.parametrize(
    ("encoding", "message"), [("latin-1", "is not utf-8"), ("utf-16", "looks like UTF-16")]
)
def test_another_encoding_is_reported_and_can_be_set(tmp_path, encoding, message):
    write_csv(tmp_path, "key,größe\na,1\nb,2\n".encode(encoding))
    opened(tmp_path, "csv").fingerprint((DAY,))
    with pytest.raises(CorruptDataError, match=message) as caught:
        read(opened(tmp_path, "csv"))
    assert "source.encoding" in one_line(caught)
    assert read(opened(tmp_path, "csv", encoding=encoding))["größe"].to_pylist() == [1, 2]


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
    table = read(opened(tmp_path, "csv"))
    assert table["key"].to_pylist() == list(range(300))
    assert table["text"].to_pylist()[299] == "two\nlines, 299\n\nand a blank"
    assert table[REASON].null_count == 300


@pytest.mark.parametrize("packed", [False, True])
def test_bare_quotes_in_tsv_files_are_kept_as_text(tmp_path, packed):
    lines = [f"{at}\t{chr(34) if at % 200 == 0 else ''}text {at}\t1" for at in range(2000)]
    data = "\n".join(["key\ttitle\tclick", *lines, ""]).encode()
    name = f"{DAY}.tsv" + (".gz" if packed else "")
    write_csv(tmp_path, gzip.compress(data) if packed else data, name)
    table = read(opened(tmp_path, "csv"))
    assert table["key"].to_pylist() == list(range(2000))
    assert table["title"].to_pylist()[200] == '"text 200'


def test_an_unclosed_quote_is_reported_with_its_column(tmp_path):
    lines = [f"{at},{chr(34) if at in (100, 150) else ''}text {at},1" for at in range(200)]
    write_csv(tmp_path, "\n".join(["key,title,click", *lines, ""]))
    table = read(opened(tmp_path, "csv"))
    aside = table.filter(pc.is_valid(table[REASON])).to_pylist()
    assert [row[REASON] for row in aside] == [
        "title holds whole lines: is a quotation mark never closed?"
    ]
    assert len(read(opened(tmp_path, "csv", quoting=False))) == 200


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
    logs = opened(tmp_path, "csv")
    table = pa.concat_tables(read(logs, day) for day in logs.days())
    assert table["v"].to_pylist() == (values or texts)
    assert table[REASON].null_count == len(texts)


def test_types_are_inferred_from_the_window_only(tmp_path):
    write_csv(tmp_path, "v\n1\n")
    write_csv(tmp_path, "v\nx\n", f"{DAYS[1]}.csv")
    assert read(opened(tmp_path, "csv", days=(DAY,)))["v"].to_pylist() == [1]
    assert read(opened(tmp_path, "csv"))["v"].to_pylist() == ["1"]


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
    table = read(opened(tmp_path, "csv", delimiter=";", decimal=",", nulls=("null", "NA")))
    assert table["price"].to_pylist() == [2.34, 1234.5, 7.0, None]
    assert table["device"].to_pylist() == [None, None, "phone", None]
    plain = read(opened(tmp_path, "csv", delimiter=";"))
    assert plain["device"].to_pylist() == ["NA", "null", "phone", None]
    assert plain["price"].to_pylist()[:3] == ["2,34", "1.234,5", "7"]


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
