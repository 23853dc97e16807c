"""Text files as other tools write them: names, compression, quotation marks, headers."""

from __future__ import annotations

import bz2
import gzip
import io
from functools import partial

import pyarrow as pa
import pytest
from nightbid.data import delimited
from nightbid.data.text_files import QuotedText
from nightbid.errors import CorruptDataError
from nightbid.schema import REASON

from . import folders
from .folders import DAY, read, write_csv

opened = partial(folders.opened, kind="csv")


def test_headers_of_concatenated_files_do_not_change_types(tmp_path):
    write_csv(tmp_path, "key,price,click\na,1.5,0\nkey,price,click\nb,2,1\n")
    table = read(opened(tmp_path))
    assert table["price"].to_pylist() == [1.5, None, 2.0]
    assert table["click"].to_pylist() == [0, None, 1]
    assert table[REASON].to_pylist() == [None, "price is not a number", None]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_line_of_the_wrong_length_that_is_not_utf8_is_reported(tmp_path):
    write_csv(tmp_path, b"key,name\na,x\nb,M\xfcller,y\n")
    with pytest.raises(CorruptDataError, match="wrong number of fields is not utf-8: Row #3"):
        read(opened(tmp_path))


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
