"""Copies columns of a Parquet file to a new one without decoding them.

Arrow can only write columns that it encodes itself. A Parquet file, however, consists of the
encoded bytes of its columns, one chunk after another, and a footer with the offset of each. So the
bytes are copied and the offsets in the footer updated. The new file is byte for byte what Arrow
would write for all columns at once.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import IO

import pyarrow as pa

from nightbid.errors import CorruptDataError
from nightbid.featurize.groups import encode_rows
from nightbid.featurize.thrift import I64, LIST, STRUCT, ThriftFields, ThriftReader, encoded

MAGIC = b"PAR1"
TAIL = 8
"""Number of bytes after a footer: its length and the magic number."""

# Field numbers in parquet.thrift: of a file, a row group, a column chunk, and its metadata.
FILE_ROWS, GROUPS = 3, 4
CHUNKS, GROUP_BYTES, GROUP_ROWS, GROUP_START, GROUP_COMPRESSED = 1, 2, 3, 5, 6
META = 3
PATH, BYTES, COMPRESSED, START = 3, 6, 7, 9
OTHER_PLACES = {10, 11, 14}
"""Fields with offsets of an index, dictionary or Bloom filter; `encode_rows` writes none."""

Chunks = dict[str, list[tuple[IO[bytes], ThriftFields]]]
"""Column → its chunks in one row group (one per leaf), each with the file to read them from."""


def write_with_columns_of(
    base: Path, new_columns: pa.Table, schema: pa.Schema, target: Path
) -> None:
    """Write rows as Parquet: new columns are encoded, the others copied from an earlier file.

    Args:
        base: File that `encode_rows` wrote for the same rows.
        new_columns: New columns, which replace columns of the same name.
        schema: Names and types of all columns of the new file, in order.
        target: File to write.

    Raises:
        CorruptDataError: `base` is no such file, or has other rows or columns.
    """
    empty, new = io.BytesIO(), io.BytesIO()
    encode_rows(schema.empty_table(), empty)
    footer = _footer(empty)
    with open(base, "rb") as old, open(target, "wb") as out:
        try:
            rows, known = _row_groups(old)
            if new_columns.num_columns:
                encode_rows(new_columns, new)
                new_rows, new_chunks = _row_groups(new)
                if new_rows != rows:
                    raise ValueError(f"row groups of {rows} rows, {new_rows} are written")
                known = [
                    {**chunks, **other} for chunks, other in zip(known, new_chunks, strict=True)
                ]
            out.write(MAGIC)
            groups = [
                _copied([chunk for name in schema.names for chunk in chunks[name]], count, out)
                for count, chunks in zip(rows, known, strict=True)
            ]
        except (ValueError, KeyError, IndexError) as error:
            raise CorruptDataError(
                f"not a file of these featurized rows ({error})",
                where=str(base),
                hint="delete the output that holds it and rerun the stage",
            ) from error
        footer[FILE_ROWS] = I64, sum(rows)
        footer[GROUPS] = LIST, (STRUCT, groups)
        encoded_footer = encoded(footer)
        out.write(encoded_footer + struct.pack("<I", len(encoded_footer)) + MAGIC)


def _copied(
    chunks: list[tuple[IO[bytes], ThriftFields]], rows: int, out: IO[bytes]
) -> ThriftFields:
    """Copy the chunks of a row group in order; returns the row group's footer entry."""
    start = out.tell()
    for source, chunk in chunks:
        meta: ThriftFields = chunk[META][1]
        source.seek(meta[START][1])
        meta[START] = I64, out.tell()
        out.write(source.read(meta[COMPRESSED][1]))
    metas = [chunk[META][1] for _, chunk in chunks]
    return {
        CHUNKS: (LIST, (STRUCT, [chunk for _, chunk in chunks])),
        GROUP_BYTES: (I64, sum(meta[BYTES][1] for meta in metas)),
        GROUP_ROWS: (I64, rows),
        GROUP_START: (I64, start),
        GROUP_COMPRESSED: (I64, sum(meta[COMPRESSED][1] for meta in metas)),
    }


def _row_groups(file: IO[bytes]) -> tuple[list[int], list[Chunks]]:
    """Read the number of rows and the chunks of each row group."""
    groups = _footer(file)[GROUPS][1][1]
    row_groups: list[Chunks] = []
    for group in groups:
        chunks: Chunks = {}
        for chunk in group[CHUNKS][1][1]:
            if OTHER_PLACES & chunk[META][1].keys():
                raise ValueError("chunks with an index or a dictionary")
            name = chunk[META][1][PATH][1][1][0].decode()
            chunks.setdefault(name, []).append((file, chunk))
        row_groups.append(chunks)
    return [group[GROUP_ROWS][1] for group in groups], row_groups


def _footer(file: IO[bytes]) -> ThriftFields:
    end = file.seek(0, io.SEEK_END)
    file.seek(max(0, end - TAIL))
    tail = file.read()
    length = int.from_bytes(tail[:4], "little")
    if not tail.endswith(MAGIC) or length > end - TAIL:
        raise ValueError("no Parquet file")
    file.seek(end - TAIL - length)
    return ThriftReader(file.read(length)).fields()
