"""Columns that the logs renamed within the days of a window."""

from __future__ import annotations

import json
from datetime import timedelta

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
from nightbid.config.folder_source import FolderSource
from nightbid.data.folder import FolderLogs
from nightbid.errors import CorruptDataError

from .folders import DAY, opened, read


def write_lines(table: pa.Table, path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))


WRITERS = {"parquet": pq.write_table, "csv": pcsv.write_csv, "jsonl": write_lines}


@pytest.mark.parametrize("named", [None, ["user", "v"], ["v"]])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_column_that_was_renamed_midway_is_one_column(tmp_path, kind, named):
    old, new, newest = DAY, DAY + timedelta(1), DAY + timedelta(2)
    rows = {
        f"dt={old}/a": {"uid": [7, 8], "site": ["x", "y"], "v": [1, 2]},
        f"dt={new}/00": {"uid": [9], "site": ["x"], "v": [3]},
        f"dt={new}/01": {"user_id": [10], "site": ["x"], "v": [4]},
        f"dt={newest}/a": {"user": [2**40], "site": ["z"], "v": [5]},
    }
    for path, columns in rows.items():
        place = tmp_path / f"{path}.{kind}"
        place.parent.mkdir(parents=True, exist_ok=True)
        WRITERS[kind](pa.table(columns), place)
    block = FolderSource(kind=kind, folder=str(tmp_path), rename={"uid": "user", "user_id": "user"})
    logs = FolderLogs(block, named=named)
    tables = [read(logs, day) for day in (old, new, newest)]
    assert [table["user"].to_pylist() for table in tables] == [[7, 8], [9, 10], [2**40]]
    assert [table["v"].to_pylist() for table in tables] == [[1, 2], [3, 4], [5]]
    assert {str(table.schema.field("user").type) for table in tables} == {"int64"}


def test_rows_under_either_name_of_a_column_are_merged_unless_they_differ(tmp_path):
    path = tmp_path / f"dt={DAY}" / "a.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text('{"uid": 1, "v": 1}\n{"user": 2, "v": 2}\n{"uid": 3, "user": 3, "v": 3}\n')
    logs = opened(tmp_path, "jsonl", rename={"uid": "user"})
    assert read(logs, DAY)["user"].to_pylist() == [1, 2, 3]
    path.write_text('{"uid": 1, "v": 1}\n{"uid": 2, "user": 3, "v": 2}\n')
    with pytest.raises(CorruptDataError, match="two columns are called 'user'"):
        read(opened(tmp_path, "jsonl", rename={"uid": "user"}), DAY)
