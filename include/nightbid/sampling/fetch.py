"""Copies the logs of one unit to a worker that can only access the bucket.

For a text file the unit's lines are copied, for a Parquet file its footer and the unit's row
groups, for other files everything. The copied generation of an object is the one that the day's key
covers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
from upath import UPath

from nightbid.config.folder_source import FileKind
from nightbid.data.delimited import FilePart
from nightbid.data.units import FolderUnit
from nightbid.storage import gcs

TAIL = 1 << 16
"""Bytes at the end of a Parquet file to read first; most footers are smaller."""


def fetched(unit: FolderUnit, folder: Path, generations: Mapping[str, int]) -> FolderUnit:
    """Copy the data that a unit reads.

    Args:
        unit: Unit as created on the machine that submitted the job.
        folder: Empty local folder.
        generations: Path below the source → generation of the object.

    Raises:
        WorkspaceError: An object is gone, or was replaced in the meantime.
    """
    reader = unit.reader
    parts = []
    for part in unit.parts:
        relative = part.path.relative_to(reader.root).as_posix()
        remote = gcs.Generation(UPath(f"{reader.address}/{relative}"), generations.get(relative))
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        parts.append(_copy(part, reader.kind, remote, target))
    return replace(unit, reader=replace(reader, root=folder), parts=tuple(parts))


def _copy(part: FilePart, kind: FileKind, remote: gcs.Generation, target: Path) -> FilePart:
    if part.size is None or kind not in ("csv", "jsonl", "parquet"):
        remote.copy(target)
        return replace(part, path=target)
    if kind == "parquet":
        _copy_groups(part, remote, target)
        return replace(part, path=target)
    with open(target, "wb") as stream:
        remote.copy_range(part.start, part.start + part.size, stream)
    return FilePart(target, 0, part.size, part.names)


def _copy_groups(part: FilePart, remote: gcs.Generation, target: Path) -> None:
    """Create a file of the same size that contains the footer and some row groups."""
    size = remote.size()
    with open(target, "wb") as stream:
        stream.truncate(size)
    start = max(0, size - TAIL)
    _place(remote, start, size, target)
    with open(target, "rb") as written:
        written.seek(max(0, size - 8))
        footer = int.from_bytes(written.read(4), "little") + 8
    if start > size - footer >= 0:
        _place(remote, size - footer, start, target)
    metadata = pq.read_metadata(target)
    for at in range(part.start, part.stop or metadata.num_row_groups):
        group = metadata.row_group(at)
        columns = [group.column(number) for number in range(group.num_columns)]
        # A dictionary page, if any, precedes the column's other pages.
        starts = [
            min(column.dictionary_page_offset or column.data_page_offset, column.data_page_offset)
            for column in columns
        ]
        stops = [
            first + column.total_compressed_size
            for first, column in zip(starts, columns, strict=True)
        ]
        _place(remote, min(starts), max(stops), target)


def _place(remote: gcs.Generation, start: int, stop: int, target: Path) -> None:
    """Write a range of the object at the same offset in the file."""
    with open(target, "r+b") as stream:
        stream.seek(start)
        remote.copy_range(start, stop, stream)
