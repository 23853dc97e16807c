"""The unit of work: one row group of one file of sampled rows."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from nightbid.schema import split_files

FOOTERS_AT_ONCE = 16
"""Number of footers to read at once, since a bucket answers in tens of milliseconds."""
HISTORY = "history"
"""Split whose rows are used for history features only and are not featurized themselves."""


@dataclass(frozen=True)
class Group:
    """One row group, and the path of its featurized rows."""

    path: str
    split: str
    day: str
    file: int
    group: int
    rows: int

    @property
    def target(self) -> str:
        """Relative path of the featurized rows; sorting by it gives the order of the rows."""
        return f"split={self.split}/dt={self.day}/part-{self.file:05d}-{self.group:05d}.parquet"

    def empty(self) -> pa.Table:
        """A table with the same columns and no rows."""
        with _opened(self.path) as source:
            return pq.read_schema(source).empty_table()

    def read(self, columns: Iterable[str]) -> pa.Table:
        """Read those of the given columns that exist.

        Strings are read as dictionaries, so that later steps work once per distinct value.
        """
        # No pre-buffering: a group is read once, and memory stays at one group.
        with _opened(self.path) as source:
            with pq.ParquetFile(source, pre_buffer=False) as plain:
                schema, metadata = plain.schema_arrow, plain.metadata
            requested = set(columns)
            names = [name for name in schema.names if name in requested]
            texts = [name for name in names if _is_text(schema.field(name).type)]
            with pq.ParquetFile(
                source, metadata=metadata, read_dictionary=texts, pre_buffer=False
            ) as file:
                return file.read_row_group(self.group, columns=names, use_threads=False)


def transformed_groups(groups: Iterable[Group]) -> list[Group]:
    """Row groups to featurize, for training or evaluation."""
    return [group for group in groups if group.split != HISTORY]


def groups_of(sample: Path, splits: Iterable[str]) -> list[Group]:
    """List the row groups of sampled rows in a local folder."""
    return list_groups({split: split_files(sample, split) for split in splits})


def list_groups(files: Mapping[str, Sequence[Path | UPath]]) -> list[Group]:
    """List the row groups of files, by split and in their canonical order."""
    numbered = []
    for split, paths in files.items():
        numbers: dict[str, int] = {}
        for path in paths:
            day = path.parent.name.removeprefix("dt=")
            numbers[day] = numbers.get(day, -1) + 1
            numbered.append((split, day, numbers[day], str(path)))
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        metadata = pool.map(lambda file: _metadata(file[3]), numbered)
        return [
            Group(path, split, day, number, group, footer.row_group(group).num_rows)
            for (split, day, number, path), footer in zip(numbered, metadata, strict=True)
            for group in range(footer.num_row_groups)
            if footer.row_group(group).num_rows
        ]


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    """Source for Arrow: the path itself, or a stream of an object in a bucket."""
    if "://" not in path:
        yield path
        return
    with UPath(path).open("rb") as stream:
        yield stream


def _metadata(path: str) -> pq.FileMetaData:
    with _opened(path) as source:
        return pq.read_metadata(source)


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """Yield a temporary path and rename it afterwards, so that retries leave no partial file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}"
    yield temporary
    os.replace(temporary, path)


def encode_rows(table: pa.Table, where: Path | IO[bytes]) -> None:
    """Write featurized rows as Parquet.

    All columns are ints or floats. Byte stream split makes zstd twice as fast for them at the same
    size. Dictionary encoding gains nothing and would double the time.
    """
    pq.write_table(
        table, where, compression="zstd", use_dictionary=False, use_byte_stream_split=True
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_binary(kind))
