"""A Delta table is read from its current files; other tables are refused in one line."""

from __future__ import annotations

from datetime import date

import deltalake
import pyarrow as pa
import pytest
from nightbid.config.folder_source import FolderSource
from nightbid.data.folder import FolderLogs
from nightbid.data_check.detect import source_block
from nightbid.errors import CorruptDataError, DataError, MissingDataError

DAYS = (date(2026, 1, 5), date(2026, 1, 6))


def opened(folder, kind="delta") -> FolderLogs:
    return FolderLogs(FolderSource(kind=kind, folder=str(folder)), DAYS)


def rows(folder, day: date) -> list[int]:
    return sorted(key for batch in opened(folder).batches(day) for key in batch["id"].to_pylist())


@pytest.fixture
def table(tmp_path):
    """Write two days; one row was deleted and some were added later."""
    path = str(tmp_path / "logs")
    first = pa.table({"id": [1, 2, 3], "dt": [str(DAYS[0])] * 2 + [str(DAYS[1])]})
    deltalake.write_deltalake(path, first, partition_by=["dt"])
    deltalake.DeltaTable(path).delete("id = 1")
    more = pa.table({"id": [4], "dt": [str(DAYS[1])]})
    deltalake.write_deltalake(path, more, mode="append")
    return tmp_path / "logs"


def test_delta_omits_deleted_rows_and_new_versions_change_only_their_days(table):
    assert opened(table).days() == DAYS
    assert [rows(table, day) for day in DAYS] == [[2], [3, 4]]
    before = [opened(table).fingerprint((day,)) for day in DAYS]
    added = pa.table({"id": [5], "dt": [str(DAYS[1])]})
    deltalake.write_deltalake(str(table), added, mode="append")
    after = [opened(table).fingerprint((day,)) for day in DAYS]
    assert [one == two for one, two in zip(before, after, strict=True)] == [True, False]
    assert rows(table, DAYS[1]) == [3, 4, 5]


def test_a_delta_table_is_rejected_as_parquet_and_detected_by_data_check(table, tmp_path):
    with pytest.raises(CorruptDataError, match=r"is a Delta table.*→ set source.kind: delta"):
        opened(table, "parquet")
    assert source_block(str(table), tmp_path)["kind"] == "delta"


def test_unreadable_delta_tables_are_reported_in_one_line(tmp_path):
    plain = str(tmp_path / "plain")
    deltalake.write_deltalake(plain, pa.table({"id": [1]}))
    with pytest.raises(MissingDataError, match="the Delta table has no partitions"):
        opened(plain).days()
    (tmp_path / "none").mkdir()
    with pytest.raises(MissingDataError, match="is not a valid Delta table"):
        opened(tmp_path / "none")
    dv = str(tmp_path / "dv")
    table = pa.table({"id": [1], "dt": [str(DAYS[0])]})
    deltalake.write_deltalake(dv, table, partition_by=["dt"])
    log = next((tmp_path / "dv" / "_delta_log").glob("*.json"))
    text = log.read_text().replace('"configuration":{}', '"configuration":{'
                                   '"delta.columnMapping.mode":"name"}')  # fmt: skip
    log.write_text(text)
    with pytest.raises(DataError, match="columnMapping") as caught:
        opened(dv).days()
    assert "\n" not in str(caught.value)
