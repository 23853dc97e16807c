"""JSON lines, ORC and Avro hold the same rows as Parquet."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, date, datetime, timedelta

import fastavro
import pyarrow as pa
import pyarrow.orc as orc
import pyarrow.parquet as pq
import pytest
from nightbid.config.folder_source import FolderSource
from nightbid.data.folder import FolderLogs
from nightbid.errors import CorruptDataError
from nightbid.schema import REASON, TEXT
from nightbid.time_parsing import as_time

DAY = date(2026, 1, 5)
START = datetime(2026, 1, 5, tzinfo=UTC)
ROWS = [
    {
        "id": at,
        "time": START + timedelta(minutes=at),
        "user": f"u{at % 7}",
        "tags": ["a", "b"][: at % 3],
        "price": None if at % 5 == 0 else at / 4,
        "click": at % 9 == 0,
    }
    for at in range(1000)
]
AVRO = {
    "type": "record",
    "name": "Impression",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "time", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "user", "type": "string"},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
        {"name": "price", "type": ["null", "double"]},
        {"name": "click", "type": "boolean"},
    ],
}


def write(folder, kind: str):
    path = folder / f"dt={DAY}" / f"part.{kind}"
    path.parent.mkdir()
    if kind == "orc":
        orc.write_table(pa.Table.from_pylist(ROWS), path)
    elif kind == "avro":
        with open(path, "wb") as stream:
            fastavro.writer(stream, AVRO, ROWS, codec="deflate")
    else:
        packed = gzip.open if kind.endswith(".gz") else open
        with packed(path, "wt") as stream:
            for row in ROWS:
                known = {name: value for name, value in row.items() if value is not None}
                stream.write(json.dumps(known, default=datetime.isoformat) + "\n")
    return path


def write_json(folder, day: date, *rows: dict, name: str = "part"):
    path = folder / f"dt={day}" / f"{name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def opened(folder, kind: str, **options) -> FolderLogs:
    return FolderLogs(FolderSource(kind=kind, folder=str(folder), **options), [DAY])


def read(logs: FolderLogs) -> pa.Table:
    return pa.Table.from_batches(list(logs.batches(DAY)))


@pytest.mark.parametrize("name", ["orc", "avro", "jsonl", "json.gz", "ndjson"])
def test_every_format_round_trips(tmp_path, name):
    write(tmp_path, name)
    kind = name if name in ("orc", "avro") else "jsonl"
    logs = opened(tmp_path, kind, types={"time": "time"})
    assert logs.days() == (DAY,)
    rows = read(logs).select(list(ROWS[0]))
    assert rows.to_pylist() == ROWS


@pytest.mark.parametrize("name", ["orc", "avro", "jsonl"])
def test_a_truncated_file_is_reported_with_its_name(tmp_path, name):
    path = write(tmp_path, name)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(
        CorruptDataError, match=rf"part\.{name}: cannot be read as .*→ load"
    ) as caught:
        read(opened(tmp_path, name))
    assert "\n" not in str(caught.value)


def test_json_lines_with_different_fields_and_types_form_one_table(tmp_path):
    """Fields appear and disappear, integers become fractions, and long ids keep every digit."""
    folder = tmp_path / f"dt={DAY}"
    folder.mkdir()
    long = [20260105000000000001, 20260105000000000002]
    (folder / "1.jsonl").write_text(f'{{"id": {long[0]}, "price": 2}}\n{{"id": {long[1]}}}\n')
    (folder / "2.jsonl").write_text('{"id": 5, "price": 2.5, "ad": "x"}\n\n')
    rows = read(opened(tmp_path, "jsonl"))
    assert rows.to_pydict() == {
        "id": [str(long[0]), str(long[1]), "5"],
        "price": [2.0, None, 2.5],
        "ad": [None, None, "x"],
        REASON: [None] * 3,
        TEXT: [None] * 3,
    }


def test_json_fields_of_mixed_types_are_read_as_text(tmp_path):
    path = tmp_path / f"dt={DAY}" / "part.jsonl"
    path.parent.mkdir()
    rows = [{"id": 1, "v": 7, "at": "2026-01-05 00:00:00"}, {"id": 2, "v": "x"},
            {"id": 3, "w": [1]}, {"id": 4, "v": True, "w": ["a"]}]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read_rows = read(opened(tmp_path, "jsonl"))
    assert read_rows["id"].to_pylist() == [1, 2, 3, 4]
    assert read_rows["v"].to_pylist() == ["7", "x", None, "true"]
    assert read_rows["w"].to_pylist() == [None, None, "[1]", '["a"]']
    assert pa.types.is_timestamp(read_rows["at"].type)


NESTED = [
    {
        "event": {"id": "a", "at": "2026-01-05T10:00:00Z"},
        "user": {"geo": {"country": "DE"}},
        "n": 1,
    },
    {"event": {"id": "b", "at": "2026-01-05 11:00"}, "user": None, "n": 2},
    {"event": {"id": "c", "at": None}, "user": {"geo": {"country": "FR"}}, "tags": ["x"]},
]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "avro"])
def test_nested_fields_become_columns(tmp_path, kind):
    path = tmp_path / f"dt={DAY}" / f"part.{kind}"
    path.parent.mkdir()
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in NESTED))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(NESTED), path)
    else:
        text = ["null", "string"]
        geo = {"type": "record", "name": "geo", "fields": [{"name": "country", "type": text}]}
        user = {
            "type": "record",
            "name": "user",
            "fields": [{"name": "geo", "type": ["null", geo]}],
        }
        event = {"type": "record", "name": "event", "fields": [
            {"name": "id", "type": text}, {"name": "at", "type": text}]}  # fmt: skip
        schema = {"type": "record", "name": "row", "fields": [
            {"name": "event", "type": event}, {"name": "user", "type": ["null", user]},
            {"name": "n", "type": ["null", "long"]}]}  # fmt: skip
        with open(path, "wb") as stream:
            fastavro.writer(stream, fastavro.parse_schema(schema), NESTED)
    rows = read(opened(tmp_path, kind))
    assert rows["event.id"].to_pylist() == ["a", "b", "c"]
    assert rows["user.geo.country"].to_pylist() == ["DE", None, "FR"]
    assert rows["n"].to_pylist() == [1, 2, None]
    assert not any(pa.types.is_struct(field.type) for field in rows.schema)
    named = FolderLogs(
        FolderSource(kind=kind, folder=str(tmp_path)), [DAY], named={"user.geo.country"}, others=0
    )
    assert [name for name in read(named).column_names if not name.startswith("nb_")] == [
        "user.geo.country"
    ]


def test_nested_json_fields_keep_every_digit_and_may_change_type(tmp_path):
    path = tmp_path / f"dt={DAY}" / "part.jsonl"
    path.parent.mkdir()
    path.write_text('{"u": {"id": 20260105000000000001}}\n{"u": {"id": 2}}\n{"u": null}\n')
    assert read(opened(tmp_path, "jsonl"))["u.id"].to_pylist() == [
        "20260105000000000001",
        "2",
        None,
    ]
    path.write_text('{"u": {"id": 7}}\n{"u": {"id": "x"}}\n{"u": null}\n{"u": "y", "n": 1}\n')
    rows = read(opened(tmp_path, "jsonl")).select(["u.id", "u", "n"]).to_pydict()
    assert rows == {
        "u.id": ["7", "x", None, None],
        "u": [None, None, None, "y"],
        "n": [None, None, None, 1],
    }


def test_a_field_of_an_object_named_like_a_column_is_rejected(tmp_path):
    row = {"u": {"id": 7}, "u.id": 8}
    write_json(tmp_path, DAY, row)
    for kind in ("jsonl", "parquet"):
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist([row]), tmp_path / f"dt={DAY}" / "p.parquet")
        with pytest.raises(CorruptDataError, match=r"two columns are called 'u\.id', one of them"):
            read(opened(tmp_path, kind))


def test_long_integers_in_json_lists_keep_every_digit(tmp_path):
    ids = [2**64 - 1, 2**64 - 2, 2**63 + 11, 5]
    write_json(tmp_path, DAY, {"ids": ids, "u": {"ids": [ids]}}, {"ids": None})
    rows = read(opened(tmp_path, "jsonl"))
    assert rows["ids"].to_pylist() == [list(map(str, ids)), None]
    assert rows["u.ids"].to_pylist() == [[list(map(str, ids))], None]


def test_json_texts_that_are_dates_in_some_files_are_read_as_text(tmp_path):
    launched = [["2026-01-05", "2026-01-06"], ["2026-01-05", "soon"]]
    for name, values in zip("ab", launched, strict=True):
        rows = [{"launch": value, "days": [value], "o": {"at": value}} for value in values]
        write_json(tmp_path, DAY, *rows, name=name)
    texts = [value for values in launched for value in values]
    rows = read(opened(tmp_path, "jsonl"))
    assert rows["launch"].to_pylist() == rows["o.at"].to_pylist() == texts
    assert rows["days"].to_pylist() == [[text] for text in texts]
    (tmp_path / f"dt={DAY}" / "b.jsonl").unlink()
    rows = read(opened(tmp_path, "jsonl", types={"launch": "string"}))
    assert rows["launch"].to_pylist() == launched[0]


def test_times_with_a_zone_are_not_shifted_to_the_zone_of_the_days(tmp_path):
    # The days are those of New York: five hours behind UTC.
    times = {
        "2026-01-05T03:00:00Z": 3, "2026-01-05T03:00:00+02:00": 1, "2026-01-05 03:00:00": 8,
        "2026-01-05": 5,
    }  # fmt: skip
    folder = tmp_path / "json"
    folder.mkdir()
    for mixed in (list(times), list(times)[2:]):
        write_json(folder, DAY, *({"at": time, "o": {"at": time}} for time in mixed))
        logs = opened(folder, "jsonl", time_zone="America/New_York")
        for name in ("at", "o.at"):
            read_times = as_time(read(logs)[name], "America/New_York").to_pylist()
            assert read_times == [START + timedelta(hours=times[time]) for time in mixed]
    # Spark and Hive write INT96 in UTC; other times without a zone are local.
    folder = tmp_path / f"dt={DAY}"
    folder.mkdir()
    table = pa.table({"at": pa.array([START.replace(tzinfo=None)], pa.timestamp("us"))})
    for is_spark, hours in ((True, 0), (False, 5)):
        pq.write_table(table, folder / "part.parquet", use_deprecated_int96_timestamps=is_spark)
        rows = read(opened(tmp_path, "parquet", time_zone="America/New_York"))
        assert as_time(rows["at"], "America/New_York").to_pylist() == [
            START + timedelta(hours=hours)
        ]
