"""Tables of BigQuery through Google's own clients and a server on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pytest
from emulator.bigquery import BigQuery, Table
from nightbid.arrival.contract import day_arrival
from nightbid.config.folder_source import FolderSource
from nightbid.config.pipeline import PipelineSpec
from nightbid.data.folder import FolderLogs
from nightbid.data_check.check import check_folder
from nightbid.errors import CorruptDataError, MissingDataError, WorkspaceError
from nightbid.sampling.stage import run
from nightbid.storage.workspace import Workspace
from pydantic import ValidationError
from tasks import task_of

DAYS = [date(2026, 1, 5) + timedelta(days=at) for at in range(3)]
ADDRESS = "bq://acme-ads.logs.impressions"


@pytest.fixture
def served(monkeypatch) -> Iterator[BigQuery]:
    server = BigQuery().start()
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", server.endpoint)
    monkeypatch.setenv("BIGQUERY_STORAGE_EMULATOR_HOST", server.storage)
    yield server
    server.stop()


def logs(rows: int = 200) -> pa.Table:
    times = [datetime(day.year, day.month, day.day, 7, tzinfo=UTC) + timedelta(seconds=9 * at)
             for day in DAYS for at in range(rows)]  # fmt: skip
    count = len(times)
    return pa.table(
        {
            "impression_id": [f"i{at}" for at in range(count)],
            "time": pa.array(times, pa.timestamp("us", "UTC")),
            "user_id": [f"u{at % 17}" for at in range(count)],
            "ad_id": [f"a{at % 7}" for at in range(count)],
            "price": pa.array([Decimal(at % 9) / 4 for at in range(count)], pa.decimal128(38, 9)),
            "tags": [["a", "b"][: at % 3] for at in range(count)],
            "click": pa.array([int(at % 5 == 0) for at in range(count)], pa.int64()),
            "never_named": ["x" * 50] * count,
            "dt": pa.array([at.date() for at in times], pa.date32()),
        }
    )


def opened(cache, days=DAYS, named=None, address=ADDRESS) -> FolderLogs:
    return FolderLogs(FolderSource(kind="bigquery", folder=address), days, cache, named)


def ids(source: FolderLogs, day: date) -> list[str]:
    return [key for batch in source.batches(day) for key in batch["impression_id"].to_pylist()]


def test_sampling_reads_only_named_columns_and_each_day_once(served, tmp_path):
    served.tables["logs", "impressions"] = Table(logs(), by="dt")
    spec = PipelineSpec.model_validate(
        {
            "pipeline": "t", "source": {"kind": "bigquery", "folder": ADDRESS},
            "features": {"ad_id": {}, "price": {"transform": "numeric"},
                         "tags": {"transform": "bag"}},
            "window": {"train_days": 1},
        }
    )  # fmt: skip

    def sample(name: str):
        output = tmp_path / name
        output.mkdir()
        return run(
            task_of(spec, DAYS[-1], output, workspace=tmp_path / "w", cache=tmp_path / "cache")
        )

    assert sample("one").rows.written == 600
    read = [set(session.read_options.selected_fields) for session in served.sessions]
    assert len(read) == 3
    for columns in read:
        assert {"price", "tags", "click"} <= columns
        assert "never_named" not in columns
    sample("two")
    assert len(served.sessions) == 3
    table = served.tables["logs", "impressions"]
    table.changed["20260106"] = table.made + 60
    assert sample("three").rows.written == 600
    assert len(served.sessions) == 4


@pytest.mark.parametrize("column", ["dt", "time", "moment", ""])
def test_days_are_found_for_any_type_of_partition_column(served, tmp_path, column):
    rows = logs(30)
    plain = rows["time"].cast(pa.timestamp("us"))
    rows = rows.append_column("moment", plain)
    if not column:
        rows = rows.append_column("_PARTITIONTIME", rows["time"])
    served.tables["logs", "impressions"] = Table(rows, by=column)
    assert opened(tmp_path).days() == tuple(DAYS)
    assert ids(opened(tmp_path), DAYS[1]) == [f"i{at}" for at in range(30, 60)]


def test_hourly_partitions_are_read_by_day_and_rows_without_time_are_skipped(served, tmp_path):
    rows = logs(900)  # from 7:00 to 9:15
    missing = rows.slice(0, 5).set_column(
        1, rows.schema.field("time"), pa.nulls(5, rows["time"].type)
    )
    served.tables["logs", "impressions"] = Table(
        pa.concat_tables([rows, missing]), by="time", every="HOUR"
    )
    assert opened(tmp_path).days() == tuple(DAYS)
    assert ids(opened(tmp_path), DAYS[0]) == [f"i{at}" for at in range(900)]
    assert len(served.sessions) == 3 * 3


def test_date_sharded_tables_are_read_by_day(served, tmp_path):
    for at, day in enumerate(DAYS):
        served.tables["logs", f"events_{day:%Y%m%d}"] = Table(logs(40).slice(40 * at, 40))
    served.tables["logs", "events_intraday"] = Table(logs(2))
    address = "bq://acme-ads.logs.events_*"
    source = opened(tmp_path, address=address)
    assert source.days() == tuple(DAYS)
    assert ids(source, DAYS[2]) == [f"i{at}" for at in range(80, 120)]


def test_a_table_can_be_checked_and_a_day_arrives_once_unchanged(served, tmp_path):
    served.tables["logs", "impressions"] = Table(logs(2000), by="dt")
    report = check_folder(ADDRESS, tmp_path).to_json()
    assert report["source"] == {"kind": "bigquery", "folder": ADDRESS}
    assert report["labels"][0]["column"] == "click"
    spec = PipelineSpec.model_validate(
        {
            "pipeline": "t", "source": report["source"], "features": {"ad_id": {}},
            "arrival": {"settled_minutes": 30},
        }
    )  # fmt: skip
    workspace, now = Workspace(str(tmp_path / "w")), datetime.now(UTC)
    looks = [
        day_arrival(spec, DAYS[0], workspace, tmp_path, now + timedelta(minutes=minute))
        for minute in (5, 35)
    ]
    assert [look.is_complete for look in looks] == [False, True]


def test_unreadable_tables_are_reported_in_one_line_and_leave_no_copy(served, tmp_path):
    tables = served.tables
    tables["logs", "impressions"] = Table(logs(30))
    with pytest.raises(
        CorruptDataError, match=r"impressions: the table is not partitioned by time"
    ):
        opened(tmp_path).days()
    tables["logs", "impressions"] = Table(logs(30), by="dt", every="MONTH")
    with pytest.raises(
        CorruptDataError, match="partitioned by MONTH → partition it by DAY or HOUR"
    ):
        opened(tmp_path).days()
    with pytest.raises(MissingDataError, match=r"acme-ads\.logs\.none: there is no such table"):
        opened(tmp_path, address="bq://acme-ads.logs.none")
    with pytest.raises(MissingDataError, match="there is no table none_YYYYMMDD"):
        opened(tmp_path, address="bq://acme-ads.logs.none_*")
    tables["logs", "impressions"] = Table(logs(30), by="dt")
    served.missing_rows = 3
    with pytest.raises(
        MissingDataError, match="27 rows came of 30: the table is being written"
    ) as caught:
        ids(opened(tmp_path), DAYS[0])
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.parquet"))
    served.missing_rows = 0
    served.fail("GET", "tables/impressions", 403)
    with pytest.raises(WorkspaceError, match="BigQuery cannot be read: Forbidden"):
        opened(tmp_path)
    assert len(ids(opened(tmp_path), DAYS[0])) == 30


@pytest.mark.parametrize(
    ("kind", "folder", "message"),
    [
        ("bigquery", "bq://impressions", "is not a BigQuery table; write bq://project"),
        ("bigquery", "/logs", "do not match"),
        ("parquet", ADDRESS, "do not match"),
    ],
)
def test_invalid_table_addresses_are_rejected(kind, folder, message):
    with pytest.raises(ValidationError, match=message):
        FolderSource(kind=kind, folder=folder)
