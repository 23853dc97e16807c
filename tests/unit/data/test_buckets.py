"""Logs in buckets, through the real clients and servers on loopback."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta

import boto3
import deltalake
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from emulator.storage import Storage
from google.cloud import storage as gcs
from moto.server import ThreadedMotoServer
from nightbid.arrival.contract import DayArrival, day_arrival
from nightbid.config.folder_source import FolderSource
from nightbid.config.pipeline import Night, PipelineSpec
from nightbid.data.folder import FolderLogs
from nightbid.data_check.check import check_folder
from nightbid.errors import CorruptDataError, MissingDataError, NightbidError, WorkspaceError
from nightbid.night.task import StageTask
from nightbid.sampling.stage import fingerprint, run
from nightbid.storage.workspace import Workspace
from pydantic import ValidationError
from pyiceberg.catalog.memory import InMemoryCatalog

DAYS = [date(2026, 1, 5) + timedelta(days=at) for at in range(4)]
Put = Callable[[str, bytes], None]


def day_of_logs(day: date, rows: int = 200) -> pa.Table:
    length = 86_400_000_000
    start = (day - date(1970, 1, 1)).days * length
    return pa.table(
        {
            "impression_id": [f"{day}-{at}" for at in range(rows)],
            "time": pa.array([start + at * length // rows for at in range(rows)],
                             pa.timestamp("us", "UTC")),
            "user_id": [f"u{at % 17}" for at in range(rows)],
            "ad_id": [f"a{at % 7}" for at in range(rows)],
            "click": [int(at % 5 == 0) for at in range(rows)],
        }
    )  # fmt: skip


def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def gs_server() -> Iterator[Storage]:
    served = Storage().start()
    yield served
    served.stop()


@pytest.fixture(params=["s3", "gs"])
def bucket(request, tmp_path, monkeypatch) -> tuple[str, Put]:
    """Return the address of a prefix and a function that uploads an object there."""
    name = f"logs-{abs(hash(tmp_path))}"
    if request.param == "s3":
        endpoint = request.getfixturevalue("s3_server")
        for key, value in {
            "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "k", "AWS_DEFAULT_REGION":
            "us-east-1", "AWS_SECRET_ACCESS_KEY": "s",
        }.items():  # fmt: skip
            monkeypatch.setenv(key, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket=name)
        return f"s3://{name}/ads", lambda key, data: client.put_object(
            Bucket=name, Key=f"ads/{key}", Body=data
        )
    served = request.getfixturevalue("gs_server")
    served.buckets[name] = {}
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", served.endpoint)
    here = gcs.Client.create_anonymous_client().bucket(name)
    return f"gs://{name}/ads", lambda key, data: here.blob(f"ads/{key}").upload_from_string(data)


def spec_of(address: str, **blocks) -> PipelineSpec:
    return PipelineSpec.model_validate(
        {
            "pipeline": "t",
            "source": {"kind": "parquet", "folder": address},
            "features": {"ad_id": {}},
            "window": {"train_days": 2},
            **blocks,
        }
    )


def test_a_day_in_a_bucket_arrives_once_marked_and_unchanged(bucket, tmp_path):
    address, put = bucket
    put(f"dt={DAYS[0]}/part-0.parquet", parquet(day_of_logs(DAYS[0])))
    block = {"marker": "_SUCCESS", "settled_minutes": 5, "min_rows_ratio": 0.5}
    spec, workspace = spec_of(address, arrival=block), Workspace(str(tmp_path / "w"))

    def look(minutes: int) -> DayArrival:
        now = datetime.now(UTC) + timedelta(minutes=minutes)
        return day_arrival(spec, DAYS[0], workspace, tmp_path / "c", now)

    assert [text[:15] for text in look(0).missing] == ["no file _SUCCES", "files unchanged"]
    put(f"dt={DAYS[0]}/_SUCCESS", b"")
    arrival = look(6)
    assert arrival.is_complete, arrival.missing
    assert "200 rows, no earlier night to compare with" in arrival.found


def test_a_bucket_is_sampled_and_changed_objects_are_read_again(bucket, tmp_path):
    address, put = bucket
    for day in DAYS:
        put(f"dt={day}/part-0.parquet", parquet(day_of_logs(day)))
        put(f"dt={day}/_SUCCESS", b"")
    put("notes/readme.txt", b"no day")
    spec, count = spec_of(address), iter(range(9))

    def sample() -> tuple[str, dict, int]:
        output = tmp_path / f"out{next(count)}"
        output.mkdir()
        night = Night.of(spec, DAYS[-1])
        task = StageTask(
            spec=spec, night=night, run_id="r", inputs={}, history=(), output=output,
            workspace=Workspace(str(tmp_path / "w")), cache=tmp_path / "cache",
        )  # fmt: skip
        print_ = fingerprint(spec, night, tmp_path / "cache")
        outcome = run(task)
        return print_, outcome.metrics["made"], outcome.rows.written

    first, days, rows = sample()
    assert (len(days), rows) == (4, 800)
    assert sample() == (first, {}, 800)
    put(f"dt={DAYS[1]}/part-0.parquet", parquet(day_of_logs(DAYS[1], 100)))
    again, days, rows = sample()
    assert (again != first, days, rows) == (True, {str(DAYS[1]): "logs changed"}, 700)


def test_hourly_csv_objects_are_read_by_day_and_errors_name_the_object(bucket, tmp_path):
    address, put = bucket
    put("2026/01/05/00/part.csv", b"id,price\n1,2.5\n")
    put("2026/01/05/01/part.csv", b"id,price\n2,3\n")
    put("2026/01/06/00/part.csv", b"id,id\n2,3\n")
    logs = FolderLogs(FolderSource(kind="csv", folder=address), DAYS[:1], tmp_path)
    assert logs.days() == (DAYS[0], DAYS[1])
    rows = pa.Table.from_batches(list(logs.batches(DAYS[0])))
    assert rows["price"].to_pylist() == [2.5, 3.0]
    logs = FolderLogs(FolderSource(kind="csv", folder=address), DAYS[1:2], tmp_path)
    with pytest.raises(CorruptDataError, match=f"^{address}/2026/01/06/00/part.csv: two columns"):
        list(logs.batches(DAYS[1]))


def test_data_check_describes_a_bucket(bucket, tmp_path):
    address, put = bucket
    for day in DAYS:
        put(f"dt={day}/part-0.parquet", parquet(day_of_logs(day, 2000)))
    report = check_folder(address, tmp_path).to_json()
    assert report["source"] == {"kind": "parquet", "folder": address}
    assert report["days"] == [str(day) for day in DAYS]
    assert report["labels"][0]["column"] == "click"


def test_missing_objects_and_buckets_are_reported_in_one_line(bucket, tmp_path, monkeypatch):
    address, _ = bucket
    with pytest.raises(MissingDataError, match=f"^{address}: there are no objects under"):
        FolderLogs(FolderSource(kind="csv", folder=address), (), tmp_path).days()
    absent = f"{address.partition('://')[0]}://there-is-none/ads"
    with pytest.raises(NightbidError, match=r"there-is-none/ads: there is no") as caught:
        FolderLogs(FolderSource(kind="csv", folder=absent), (), tmp_path).days()
    assert "\n" not in str(caught.value)
    with pytest.raises(ValidationError, match="neither a folder nor gs://, s3:// or bq://"):
        FolderSource(kind="csv", folder="abfs://container/logs")


def test_an_unreachable_bucket_is_reported_in_one_line(tmp_path, monkeypatch):
    for key, value in {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "k",
                       "AWS_SECRET_ACCESS_KEY": "s", "AWS_MAX_ATTEMPTS": "1"}.items():  # fmt: skip
        monkeypatch.setenv(key, value)
    with pytest.raises(WorkspaceError, match=r"^s3://far/ads: the bucket cannot be read") as caught:
        FolderLogs(FolderSource(kind="csv", folder="s3://far/ads"), (), tmp_path).days()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["delta", "iceberg"])
def test_a_table_in_a_bucket_is_read_at_its_newest_version(bucket, kind, tmp_path):
    address, put = bucket
    table = pa.concat_tables(
        [day_of_logs(day).append_column("dt", pa.array([str(day)] * 200)) for day in DAYS]
    )
    if kind == "delta":
        folder = tmp_path / "table"
        deltalake.write_deltalake(str(folder), table, partition_by=["dt"])
        deltalake.DeltaTable(str(folder)).delete("ad_id = 'a3'")
    else:
        catalog = InMemoryCatalog("test", warehouse=f"file://{tmp_path}")
        catalog.create_namespace("w")
        created = catalog.create_table("w.table", schema=table.schema)
        with created.update_spec() as update:
            update.add_identity("dt")
        created.append(table)
        created.delete("ad_id = 'a3'")
        catalog.engine.dispose()
        folder = tmp_path / "w" / "table"
    for path in folder.rglob("*"):
        if path.is_file():
            put(path.relative_to(folder).as_posix(), path.read_bytes())

    def ads(source: str) -> set[str]:
        logs = FolderLogs(FolderSource(kind=source, folder=address), DAYS, tmp_path / "cache")
        assert list(logs.days()) == DAYS
        return {ad for batch in logs.batches(DAYS[1]) for ad in batch["ad_id"].to_pylist()}

    assert ads(kind) == {"a0", "a1", "a2", "a4", "a5", "a6"}
    with pytest.raises(CorruptDataError, match=f"→ set source.kind: {kind}"):
        ads("parquet")
    with pytest.raises(MissingDataError, match="table: it has no"):
        ads("iceberg" if kind == "delta" else "delta")
