"""Small files that expand to gigabytes, endless rows or endless depth.

Each is soon read in bounded memory or refused in one line; the reading process survives.
"""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from preloaded import COMMANDS

MIB = 1 << 20
MUCH = 1 << 60
SECONDS, GIGABYTES = 200, 2
PROGRAM = """
import datetime as dt, json, resource, signal, sys
from pathlib import Path
from nightbid.config.folder_source import FolderSource
from nightbid.data.folder import FolderLogs
from nightbid.errors import NightbidError

kind, folder, seconds, gigabytes = json.loads(sys.argv[1])
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + int(gigabytes * 2**30)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
signal.alarm(seconds)  # ends the process
try:
    logs = FolderLogs(FolderSource(kind=kind, folder=folder))
    print(sum(batch.num_rows for batch in logs.batches(dt.date(2026, 1, 8))), "rows")
except NightbidError as error:
    print(error)
"""


def integer(value: int) -> bytes:
    """Encode an integer like Avro and Thrift: zigzag, seven bits per byte."""
    rest, encoded = value << 1, b""
    while rest > 127:
        encoded, rest = encoded + bytes([rest & 127 | 128]), rest >> 7
    return encoded + bytes([rest])


def inflates(*pieces: bytes, times: int = 300) -> bytes:
    """Return a gzip file whose last piece repeats."""
    *first, last = (gzip.compress(piece) for piece in pieces)
    return b"".join(first) + last * times


def avro(row: Any, count: int, block: bytes) -> bytes:
    """Return an Avro file with one block that claims `count` rows."""
    schema = json.dumps({"type": "record", "name": "row", "fields": row}).encode()
    meta = b"".join(
        integer(len(part)) + part for part in (b"avro.schema", schema, b"avro.codec", b"null")
    )
    mark = b"s" * 16
    head = b"Obj\x01" + integer(2) + meta + b"\x00" + mark
    return head + integer(count) + integer(len(block)) + block + mark


def column(kind: Any) -> list[dict[str, Any]]:
    return [{"name": "a", "type": kind}]


def parquet(path: Path) -> None:
    """Write a text of 1 MiB that 1,000 rows share: a gigabyte in a few hundred bytes."""
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), ["x" * MIB])
    pq.write_table(pa.table({"a": text}), path, compression="zstd", store_schema=False)


def claiming(path: Path) -> None:
    """Write a footer that claims 2^60 rows."""
    pq.write_table(pa.table({"a": list(range(300))}), path)
    content = path.read_bytes()
    (length,) = struct.unpack("<I", content[-8:-4])
    body, footer = content[: -8 - length], content[-8 - length : -8]
    other = footer.replace(b"\x16" + integer(300), b"\x16" + integer(MUCH))
    assert other != footer
    path.write_bytes(body + other + struct.pack("<I", len(other)) + b"PAR1")


RECURSIVE = {"type": "record", "name": "n", "fields": [{"name": "next", "type": ["null", "n"]}]}
BOMBS: dict[str, tuple[str, bytes | Callable[[Path], None], str]] = {
    "endless CSV line": (
        "csv.gz", inflates(b"a,b\n", b"x" * MIB), "longer than 8 MiB"),
    "endless CSV header": ("csv.gz", inflates(b"x" * MIB), "cannot infer number of columns"),
    "unclosed CSV quote": (
        "csv.gz", inflates(b'a,b\n1,"', b"x\n" * (MIB // 2)), "quotation mark never closed"),
    "CSV lines of the wrong length": (
        "csv.gz", inflates(b"a,b\n1,2\n", (b"x" * 400 + b",1,2\n") * 2_600),
        "MiB of consecutive lines do not have as many fields as the header"),
    "500,000 CSV columns": (
        "csv", b",".join(b"c%d" % at for at in range(500_000)) + b"\n", "has 500,000 columns"),
    "endless JSON line": (
        "jsonl.gz", inflates(b'{"a": "', b"x" * MIB), "a line is longer than 64 MiB"),
    "deeply nested JSON line": (
        "jsonl", b'{"a": ' + b"[" * 10**6 + b"]" * 10**6 + b"}\n", "1 rows"),
    "deeply nested JSON line, truncated": (
        "jsonl", b'{"a": ' + b"[" * 10**6, "nested deeper than 200 levels"),
    "deeply nested JSON line among others": (
        "jsonl", b'{"a": 1}\nx\n{"a": ' + b"[" * 10**5 + b"]" * 10**5 + b"}\n", "3 rows"),
    "a new JSON field per row": (
        "jsonl", b"".join(b'{"f%d": 1}\n' % at for at in range(60_000)),
        "60,000 different fields"),
    "expanding Parquet dictionary": ("parquet", parquet, "1000 rows"),
    "Parquet footer that claims 2^60 rows": ("parquet", claiming, ""),
    "Avro rows of 0 bytes": ("avro", avro(column("null"), MUCH, b""), "rows take no bytes"),
    "Avro block that claims missing rows": (
        "avro", avro(column("long"), MUCH, integer(1) * 300), "cannot be read as Avro"),
    "Avro text that claims 2^60 bytes": (
        "avro", avro(column("string"), 1, integer(MUCH) + b"abc"), "Expected 115"),
    "Avro list that claims 2^60 nulls": (
        "avro", avro(column({"type": "array", "items": "null"}), 1, integer(MUCH) + b"\0"),
        "values that take no bytes"),
    "recursive Avro type": (
        "avro", avro(column(RECURSIVE), 1, b"\x02" * 3_000_000 + b"\0"), "contains itself"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_an_expanding_file_is_read_in_bounded_memory_or_rejected_in_one_line(
    tmp_path: Path, name: str
) -> None:
    suffix, content, expected = BOMBS[name]
    path = tmp_path / "dt=2026-01-08" / f"part.{suffix}"
    path.parent.mkdir()
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    assert path.stat().st_size < 8 * MIB
    program = tmp_path / "read.py"
    program.write_text(PROGRAM)
    arguments = json.dumps([suffix.partition(".")[0], str(tmp_path), SECONDS, GIGABYTES])
    done = COMMANDS.run(arguments, module=str(program))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    (line,) = done.stdout.splitlines()
    assert expected in line
    assert line.endswith("rows") or "part." in line
    assert len(line) < 1200
