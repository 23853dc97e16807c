"""The unit of work: one row group of one file of sampled rows."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nightbid.schema import split_files


@dataclass(frozen=True)
class Group:
    """One row group, and where its featurized rows go."""

    path: str
    split: str
    day: str
    file: int
    group: int
    rows: int

    @property
    def target(self) -> str:
        """Relative path of the featurized rows: sorted by name they are in the order of rows."""
        return f"split={self.split}/dt={self.day}/part-{self.file:05d}-{self.group:05d}.parquet"

    def read(self, columns: Iterable[str]) -> pa.Table:
        """Read the given columns (those that are there).

        Strings come as dictionaries: later work is then done once per distinct value.
        """
        # No pre-buffering: a group is read once, and memory stays at one group.
        with pq.ParquetFile(self.path, pre_buffer=False) as plain:
            schema, metadata = plain.schema_arrow, plain.metadata
        wanted = set(columns)
        names = [name for name in schema.names if name in wanted]
        texts = [name for name in names if _is_text(schema.field(name).type)]
        with pq.ParquetFile(
            self.path, metadata=metadata, read_dictionary=texts, pre_buffer=False
        ) as file:
            return file.read_row_group(self.group, columns=names, use_threads=False)


def groups_of(sample: Path, splits: Iterable[str]) -> list[Group]:
    """List the row groups of sampled rows."""
    found = []
    for split in splits:
        numbers: dict[str, int] = {}
        for path in split_files(sample, split):
            day = path.parent.name.removeprefix("dt=")
            number = numbers.setdefault(day, 0)
            numbers[day] += 1
            metadata = pq.read_metadata(path)
            found += [
                Group(str(path), split, day, number, group, metadata.row_group(group).num_rows)
                for group in range(metadata.num_row_groups)
                if metadata.row_group(group).num_rows
            ]
    return found


def write_rows(table: pa.Table, path: Path) -> None:
    """Write featurized rows beside and rename: a bundle that is retried cannot leave half a file.

    Dense ids and floats gain nothing from Parquet's dictionaries, which cost half the time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}"
    pq.write_table(table, beside, compression="zstd", use_dictionary=False)
    os.replace(beside, path)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_binary(kind))
