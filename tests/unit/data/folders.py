"""A folder of daily files, opened as a source, and its rows."""

from __future__ import annotations

from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
from nightbid.config.folder_source import FolderSource
from nightbid.data.folder import FolderLogs

DAYS = (date(2026, 1, 1), date(2026, 1, 2))
DAY = DAYS[0]


def opened(folder, kind="parquet", days=(), **options) -> FolderLogs:
    return FolderLogs(FolderSource(kind=kind, folder=str(folder), **options), days)


def read(logs: FolderLogs, day: date = DAY) -> pa.Table:
    return pa.Table.from_batches(list(logs.batches(day)))


def write_csv(folder, text: str | bytes, name: str = f"{DAY}.csv"):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def write_parts(folder, *tables: pa.Table, day: date = DAY):
    (folder / f"dt={day}").mkdir(exist_ok=True)
    for at, table in enumerate(tables):
        pq.write_table(table, folder / f"dt={day}" / f"part-{at}.parquet")
    return folder


def one_line(caught) -> str:
    text = str(caught.value)
    assert "\n" not in text
    return text
