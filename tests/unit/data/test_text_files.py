"""Text files as other tools write them: names, compression, quotation marks, headers."""

from __future__ import annotations

import bz2
import gzip
import io
from functools import partial

import pyarrow as pa
import pyarrow.orc as orc
import pyarrow.parquet as pq
import pytest
from nightbid.data import delimited
from nightbid.data.text_files import QuotedText
from nightbid.data.write import write_day
from nightbid.errors import CorruptDataError
from nightbid.schema import REASON, TEXT

from . import folders
from .folders import DAY, read, write_csv

opened = partial(folders.opened, kind="csv")


def test_headers_of_concatenated_files_do_not_change_types(tmp_path):
    write_csv(tmp_path, "key,price,click\na,1.5,0\nkey,price,click\nb,2,1\n")
    table = read(opened(tmp_path))
    assert table["price"].to_pylist() == [1.5, None, 2.0]
    assert table["click"].to_pylist() == [0, None, 1]
    assert table[REASON].to_pylist() == [None, "price is not a number", None]


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_invalid_bytes_set_their_line_aside_whatever_else_is_wrong_with_it(
    tmp_path, monkeypatch, pack, encoding
):
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 100)  # blocks begin within characters
    bad = b"\x81"  # in neither encoding
    good = "".join(f"{at},größe,{at}\n" for at in range(20)).encode(encoding)
    lines = [b"a,%b,x,2\n", b"b,%b\n", b'c,"%b, x\ny",3\n', b"d,x,%b\n", good, b"e,f,%b,g"]
    text = b"key,name,price\n" + good + b"".join(line.replace(b"%b", bad) for line in lines)
    write_csv(tmp_path, pack(text))
    table = read(opened(tmp_path, encoding=encoding))
    assert table["price"].drop_null().to_pylist() == [*range(20), 3, *range(20)]
    assert table["name"].to_pylist().count("größe") == 40
    assert dict(zip(table[TEXT].to_pylist(), table[REASON].to_pylist(), strict=True)) == {
        None: None,
        r"a,\x81,x,2": "line has 4 fields, not 3",
        r"b,\x81": "line has 2 fields, not 3",
        "\\x81, x\ny": "name is not UTF-8",
        r"\x81": "price is not a whole number",
        r"e,f,\x81,g": "line has 4 fields, not 3",
    }


def test_lines_of_json_with_invalid_text_are_set_aside(tmp_path):
    lines = [b'{"k": "a"}', b'{"k": "\xff"}', b'{"k": "b", "\xff": 1}', b'{"k": "\\ud83d"}']
    write_csv(tmp_path, b"\n".join([*lines, b'{"k": "c"}', b'{"k": "\xe2\x82"}']), f"{DAY}.jsonl")
    table = read(opened(tmp_path, kind="jsonl"))
    assert table["k"].drop_null().to_pylist() == ["a", "c"]
    assert dict(zip(table[TEXT].to_pylist(), table[REASON].to_pylist(), strict=True)) == {
        None: None,
        r'{"k": "\xff"}': "line is not UTF-8",
        r'{"k": "b", "\xff": 1}': "line is not UTF-8",
        r'{"k": "\ud83d"}': "line has half a surrogate pair",
        r'{"k": "\xe2\x82"}': "line is not UTF-8",
    }


def test_a_file_whose_name_is_not_utf8_is_reported(tmp_path):
    (tmp_path / f"{DAY}-\udcff.csv").write_text("key\na\n")  # the byte 0xff
    with pytest.raises(CorruptDataError, match="name is not UTF-8 → rename it") as caught:
        read(opened(tmp_path))
    assert f"{DAY}-\\udcff.csv" in str(caught.value)


def test_lines_that_cannot_be_read_are_left_out_of_written_days(tmp_path):
    write_csv(tmp_path, b"key,name\na,x\nb,\xff,1\nc,\xff\n")
    assert write_day(opened(tmp_path).batches(DAY), tmp_path / "to", DAY) == 1
    assert read(folders.opened(tmp_path / "to")).to_pylist() == [{"key": "a", "name": "x"}]


@pytest.mark.parametrize("kind", ["parquet", "orc"])
def test_invalid_text_of_typed_files_is_read_as_its_digits(tmp_path, kind):
    stored = pa.array([b"a", b"\xff", b"c"])
    text = pa.Array.from_buffers(pa.string(), 3, stored.buffers())  # writers do not check it
    names = pa.ListArray.from_arrays([0, 1, 2, 3], text)
    table = pa.table({"text": text, "names": names})
    (pq.write_table if kind == "parquet" else orc.write_table)(table, tmp_path / f"{DAY}.{kind}")
    rows = read(opened(tmp_path, kind=kind))
    assert rows["text"].to_pylist() == ["a", "0xff", "c"]  # like columns of bytes
    assert rows["names"].to_pylist() == [["a"], ["0xff"], ["c"]]


BACKSLASHES = [
    ('a "big" one', '"a \\"big\\" one"'), ('{"a": 1, "b": 2}', '"{\\"a\\": 1, \\"b\\": 2}"'),
    ("C:\\", '"C:\\\\"'), ("C:\\dir", '"C:\\dir"'), ('\\"', '"\\\\\\""'),
    ("two\nlines", '"two\nlines"'),
    (None, "\\N"), ('15"', '"15\\""'), ('"', '"\\""'), ('doubled "', '"doubled """'),
]  # fmt: skip
"""Texts, and how Spark and MySQL write them."""


def test_quotes_after_backslashes_are_read_if_declared(tmp_path, monkeypatch):
    rows = "".join(f"{at},{field},x\n" for at, (_, field) in enumerate(BACKSLASHES * 30))
    for block in (500, delimited.BLOCK_BYTES):
        monkeypatch.setattr(delimited, "BLOCK_BYTES", block)
        write_csv(tmp_path, f"key,text,last\n{rows}")
        table = read(opened(tmp_path, quote_escape="backslash"))
        assert table["text"].to_pylist() == [text for text, _ in BACKSLASHES] * 30
        assert table[REASON].null_count == len(table)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_backslashes_are_read_alike_at_any_position_of_a_chunk(size):
    data = "".join(field for _, field in BACKSLASHES).encode() + b"\\"

    def in_chunks(of: int) -> bytes:
        stream = QuotedText(io.BytesIO(data), ",", backslash=True)
        return b"".join(iter(lambda: stream.read(of), b""))

    assert in_chunks(size) == in_chunks(len(data))


def test_quotes_after_backslashes_are_rejected_unless_declared(tmp_path):
    write_csv(tmp_path, 'key,text\na,plain\nb,"a \\"big\\" one"\n')
    with pytest.raises(
        CorruptDataError, match=r'before a quotation mark in the field "a \\"'
    ) as caught:
        read(opened(tmp_path))
    assert "set source.quote_escape: backslash" in str(caught.value)
    texts = ["C:\\", 'a "b\\" c', "x"]
    write_csv(tmp_path, 'key,text\na,"C:\\"\nb,"a ""b\\"" c"\nc,"x"\n')
    assert read(opened(tmp_path))["text"].to_pylist() == texts


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_compression_is_recognized_by_content(tmp_path, kind):
    """Downloads unpack files and keep their names; jobs compress files without naming them so."""
    text = b"key\n1\n" if kind == "csv" else b'{"key": 1}\n'
    for packed in (
        gzip.compress(text),
        bz2.compress(text),
        pa.compress(text, "zstd", asbytes=True),
        text,
    ):
        for name in (f"{DAY}.{kind}", f"{DAY}.{kind}.gz", f"{DAY}.{kind.upper()}.GZ"):
            write_csv(tmp_path, packed, name)
            assert read(opened(tmp_path, kind=kind))["key"].to_pylist() == [1]
            (tmp_path / name).unlink()


@pytest.mark.parametrize("name", ["stream-1-0a.gz", "stream-1-0a", "app.log", "a.2026.log.gz"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_files_without_the_extension_of_a_format_are_recognized(tmp_path, kind, name):
    text = b"key\n1\n" if kind == "csv" else b'{"key": 1}\n'
    folder = tmp_path / "2026" / "01" / "01" / "03"
    folder.mkdir(parents=True)
    write_csv(folder, gzip.compress(text) if name.endswith("gz") else text, name)
    assert read(opened(tmp_path, kind=kind))["key"].to_pylist() == [1]
    assert opened(tmp_path, kind="jsonl" if kind == "csv" else "csv").files(DAY) == []
