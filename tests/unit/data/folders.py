"""A folder of daily files, opened as a source, and its rows."""

from __future__ import annotations

from datetime import date

import pyarrow as pa
from nightbid.config.folder_source import FolderSource
from nightbid.data.folder import FolderLogs

DAYS = (date(2026, 1, 1), date(2026, 1, 2))
DAY = DAYS[0]


def opened(folder, kind="parquet", **options) -> FolderLogs:
    return FolderLogs(FolderSource(kind=kind, folder=str(folder), **options))


def read(logs: FolderLogs, day: date = DAY) -> pa.Table:
    return pa.Table.from_batches(list(logs.batches(day)))


def write_csv(folder, text: str, name: str = f"{DAY}.csv"):
    (folder / name).write_text(text)
    return folder
