"""Files of a day's rows: their names, and readers and writers that preserve their schema."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROWS, ASIDE, PROFILE, SOME = (
    "rows.parquet",
    "quarantine.parquet",
    "profile.json",
    "some_rows.parquet",
)


def numbered(name: str, number: int, of: int) -> str:
    """Name of a unit's file, without a number if the day has only one unit."""
    stem, _, ending = name.partition(".")
    return name if of == 1 else f"{stem}-{number:05d}.{ending}"


def row_files(folder: Path, name: str) -> list[Path]:
    """List the files of a day's rows (`ROWS`) or of quarantined rows (`ASIDE`), in order."""
    stem, _, ending = name.partition(".")
    only = folder / name
    return [only] if only.exists() else sorted(folder.glob(f"{stem}-*.{ending}"))


class RowWriter:
    """A Parquet file that is created when the first rows are written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None
        self._schema: pa.Schema | None = None

    def write(self, table: pa.Table) -> None:
        """Add rows; all tables have the same columns."""
        if self._writer is None or self._schema is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._schema = table.schema
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table.cast(self._schema))

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()


class RowFile:
    """Reads rows as they were given to `RowWriter`; Parquet alone renames the items of lists."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path)
        text = self._file.metadata.metadata[b"ARROW:schema"]
        self._schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def largest(self) -> int:
        """Number of rows in the largest row group."""
        file = self._file.metadata
        return max((file.row_group(at).num_rows for at in range(file.num_row_groups)), default=0)

    def empty(self) -> pa.Table:
        """A table with the same columns and no rows."""
        return self._schema.empty_table()

    def tables(self) -> Iterator[pa.Table]:
        """Yield the row groups in order, each as it was written."""
        for at in range(self._file.num_row_groups):
            yield self._file.read_row_group(at).cast(self._schema)
