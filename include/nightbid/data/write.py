"""Writing days of any source as `dt=YYYY-MM-DD/part-00000.parquet`."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nightbid.errors import MissingDataError


def write_day(batches: Iterable[pa.RecordBatch], folder: Path, day: date) -> int:
    """Write one day; it becomes visible in one step, in place of what was there.

    Args:
        batches: rows of the day, all with the columns of the first batch.
        folder: of the partitions.
        day: names the partition.

    Returns:
        How many rows were written.

    Raises:
        MissingDataError: the source gave no batch at all, so that the columns are unknown.
    """
    final = folder / f"dt={day}"
    # Hidden from readers, who look for dt=*, and on the same disk, so that it can be renamed.
    scratch = folder / f".{final.name}.{uuid.uuid4().hex[:8]}"
    scratch.mkdir(parents=True)
    writer: pq.ParquetWriter | None = None
    rows = 0
    try:
        for batch in batches:
            if writer is None:
                path = scratch / "part-00000.parquet"
                writer = pq.ParquetWriter(path, batch.schema, compression="zstd")
            writer.write_batch(batch)
            rows += batch.num_rows
        if writer is None:
            raise MissingDataError(
                f"the source has nothing of {day}", where="source", hint="take another date"
            )
        writer.close()
        _replace(scratch, final)
    finally:
        if writer is not None:
            writer.close()
        shutil.rmtree(scratch, ignore_errors=True)
    return rows


def _replace(scratch: Path, final: Path) -> None:
    # A folder with files in it cannot be renamed over: the old one steps aside first.
    old = scratch.with_name(f"{scratch.name}.old")
    if final.exists():
        os.replace(final, old)
    os.replace(scratch, final)
    shutil.rmtree(old, ignore_errors=True)
