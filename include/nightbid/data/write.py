"""Writes days of any source as `dt=YYYY-MM-DD/part-00000.parquet`, joined or as three streams."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nightbid.config.columns import Columns
from nightbid.data.source import Source
from nightbid.errors import MissingDataError
from nightbid.schema import REASON, TEXT

STREAMS = {
    "clicks": ("click", "click_time"),
    "conversions": ("conversion", "conversion_time"),
}
"""Stream → columns of the joined log that it replaces: the flag and the time."""


def write_day(batches: Iterable[pa.RecordBatch], folder: Path, day: date) -> int:
    """Write one day; it replaces an existing one in one step.

    Args:
        batches: Rows of the day, all with the columns of the first batch. Rows that the source
            could not read are left out.
        folder: Folder of the partitions.
        day: Day of the rows, which names the partition.

    Returns:
        Number of rows written.

    Raises:
        MissingDataError: The source yielded no batch, so the columns are unknown.
    """
    final = folder / f"dt={day}"
    # Not visible to readers, who look for dt=*, and on the same disk so that it can be renamed.
    scratch = folder / f".{final.name}.{uuid.uuid4().hex[:8]}"
    scratch.mkdir(parents=True)
    writer: pq.ParquetWriter | None = None
    rows = 0
    try:
        for batch in map(_readable, batches):
            if writer is None:
                path = scratch / "part-00000.parquet"
                writer = pq.ParquetWriter(path, batch.schema, compression="zstd")
            writer.write_batch(batch)
            rows += batch.num_rows
        if writer is None:
            raise MissingDataError(
                f"the source has no rows of {day}", where="source", hint="use another date"
            )
        writer.close()
        _replace(scratch, final)
    finally:
        if writer is not None:
            writer.close()
        shutil.rmtree(scratch, ignore_errors=True)
    return rows


def _readable(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Drop the rows that could not be read, and the columns that say why."""
    if REASON not in batch.schema.names:
        return batch
    rows = batch.filter(pc.is_null(batch[REASON]))
    return rows.select([name for name in rows.schema.names if name not in (REASON, TEXT)])


def write_streams(
    source: Source, roles: Columns, days: Sequence[date], folder: Path
) -> dict[str, int]:
    """Write days of a joined log as three separate logs: `impressions/`, `clicks/`, `conversions/`.

    An event is written on the day on which it happened; events after the last day are omitted, as
    they would be in real logs of that day.

    Args:
        source: Source with columns `click`, `click_time`, `conversion` and `conversion_time`.
        roles: Names the key and time columns.
        days: Consecutive days.
        folder: Parent of the three folders.

    Returns:
        Stream → rows written.

    Raises:
        MissingDataError: A day or a column is missing.
    """
    happened: dict[str, list[pa.Table]] = {name: [] for name in STREAMS}
    rows = {"impressions": 0}

    def impressions(day: date) -> Iterator[pa.RecordBatch]:
        for batch in source.batches(day):
            table = pa.Table.from_batches([batch])
            for stream, (flag, when) in STREAMS.items():
                if missing := {flag, when} - set(table.column_names):
                    raise MissingDataError(
                        f"the source has no column {sorted(missing)[0]!r}",
                        where=f"logs of {day}",
                        hint="--streams needs logs with click, click_time, conversion and"
                        " conversion_time, such as the simulator's",
                    )
                events = table.filter(pc.equal(table[flag], 1)).select([roles.key, when])
                happened[stream].append(events.rename_columns([roles.key, roles.time]))
            left = [name for pair in STREAMS.values() for name in pair]
            yield from table.drop_columns(left).combine_chunks().to_batches()

    for day in days:
        rows["impressions"] += write_day(impressions(day), folder / "impressions", day)
    for stream, tables in happened.items():
        events = pa.concat_tables(tables).sort_by([(roles.time, "ascending")])
        on = events[roles.time].cast(pa.date32())
        rows[stream] = 0
        for day in days:
            day_events = events.filter(pc.equal(on, day)).combine_chunks()
            batches = day_events.to_batches() or [
                pa.RecordBatch.from_pylist([], schema=day_events.schema)
            ]
            rows[stream] += write_day(batches, folder / stream, day)
    return rows


def _replace(scratch: Path, final: Path) -> None:
    # A folder that contains files cannot be replaced by a rename: move the old one away first.
    old = scratch.with_name(f"{scratch.name}.old")
    if final.exists():
        os.replace(final, old)
    os.replace(scratch, final)
    shutil.rmtree(old, ignore_errors=True)
