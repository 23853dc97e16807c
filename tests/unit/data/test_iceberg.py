"""An Iceberg table is read from its current files; other tables are refused in one line."""

from __future__ import annotations

import shutil
from datetime import date, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nightbid.config.folder_source import FolderSource
from nightbid.data.folder import FolderLogs
from nightbid.data_check.detect import source_block
from nightbid.errors import CorruptDataError, DataError, MissingDataError
from pyiceberg.catalog.memory import InMemoryCatalog
from pyiceberg.transforms import DayTransform

DAYS = (date(2026, 1, 5), date(2026, 1, 6))


def opened(folder, kind="iceberg") -> FolderLogs:
    return FolderLogs(FolderSource(kind=kind, folder=str(folder)), DAYS)


def rows(folder, day: date) -> list[int]:
    return sorted(key for batch in opened(folder).batches(day) for key in batch["id"].to_pylist())


def logs(*ids: int) -> pa.Table:
    """Make rows; those with an id below 3 belong to the first day."""
    days = [DAYS[int(at >= 3)] for at in ids]
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "dt": [str(day) for day in days],
            "time": pa.array(
                [datetime(day.year, day.month, day.day, 5) for day in days],
                pa.timestamp("us", "UTC"),
            ),
        }
    )


@pytest.fixture
def catalog(tmp_path):
    memory = InMemoryCatalog("test", warehouse=f"file://{tmp_path / 'warehouse'}")
    memory.create_namespace("ads")
    yield memory
    memory.engine.dispose()


@pytest.fixture
def table(catalog):
    """Write two days; one row was deleted and some were added later."""
    logged = catalog.create_table("ads.logs", schema=logs(1).schema)
    with logged.update_spec() as update:
        update.add_identity("dt")
    logged.append(logs(1, 2, 3))
    logged.delete("id = 1")
    logged.append(logs(4))
    return logged


@pytest.fixture
def folder(table, tmp_path):
    return tmp_path / "warehouse" / "ads" / "logs"


def test_iceberg_omits_deleted_rows_and_new_versions_change_only_their_days(table, folder):
    assert opened(folder).days() == DAYS
    assert [rows(folder, day) for day in DAYS] == [[2], [3, 4]]
    before = [opened(folder).fingerprint((day,)) for day in DAYS]
    table.append(logs(5))
    after = [opened(folder).fingerprint((day,)) for day in DAYS]
    assert [one == two for one, two in zip(before, after, strict=True)] == [True, False]
    assert rows(folder, DAYS[1]) == [3, 4, 5]


def test_a_moved_table_is_read_at_its_new_place(table, folder, tmp_path):
    shutil.move(folder, tmp_path / "moved")
    assert [rows(tmp_path / "moved", day) for day in DAYS] == [[2], [3, 4]]


def test_days_come_from_a_day_transform_of_a_time(catalog, tmp_path):
    by_time = catalog.create_table("ads.by_time", schema=logs(1).schema)
    with by_time.update_spec() as update:
        update.add_field("time", DayTransform(), "time_day")
    folder = tmp_path / "warehouse" / "ads" / "by_time"
    (folder / "data").mkdir(exist_ok=True)
    for ids in ((1, 2), (3,)):
        path = folder / "data" / f"{ids[0]}.parquet"
        pq.write_table(logs(*ids).cast(by_time.schema().as_arrow()), path)
        by_time.add_files([f"file://{path}"])
    assert [rows(folder, day) for day in DAYS] == [[1, 2], [3]]


def test_days_come_from_a_date_column_of_any_name(catalog, tmp_path):
    table = logs(1, 2, 3).set_column(1, "served_on", pa.array([DAYS[0], DAYS[0], DAYS[1]]))
    dated = catalog.create_table("ads.dates", schema=table.schema)
    with dated.update_spec() as update:
        update.add_identity("served_on")
    dated.append(table)
    folder = tmp_path / "warehouse" / "ads" / "dates"
    assert [rows(folder, day) for day in DAYS] == [[1, 2], [3]]


def test_an_iceberg_table_is_rejected_as_parquet_and_detected_by_data_check(folder, tmp_path):
    with pytest.raises(CorruptDataError, match=r"is an Iceberg table.*→ set source.kind: iceberg"):
        opened(folder, "parquet")
    assert source_block(str(folder), tmp_path)["kind"] == "iceberg"


def test_unreadable_iceberg_tables_are_reported_in_one_line(catalog, table, folder, tmp_path):
    plain = catalog.create_table("ads.plain", schema=logs(1).schema)
    plain.append(logs(1))
    with pytest.raises(MissingDataError, match="files without a partition"):
        opened(folder.with_name("plain")).days()
    (tmp_path / "none").mkdir()
    with pytest.raises(MissingDataError, match="is not a valid Iceberg table"):
        opened(tmp_path / "none")
    with table.update_schema() as update:
        update.rename_column("id", "impression")
    with pytest.raises(CorruptDataError, match="a column that was renamed") as caught:
        opened(folder).days()
    assert "\n" not in str(caught.value)
    newest = max((folder / "metadata").glob("*.metadata.json"))
    newest.with_name(newest.name[:5] + "-other.metadata.json").write_text("{}")
    with pytest.raises(
        DataError, match="2 metadata files of the Iceberg table could be the newest"
    ):
        opened(folder).days()
