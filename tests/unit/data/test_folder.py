"""A user's own folder: round trips, configuration errors and unreadable rows."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
from nightbid.config.folder_source import FolderSource
from nightbid.config.sources import SimulatorSource
from nightbid.data import delimited
from nightbid.data.folder import FolderLogs
from nightbid.data.simulator.source import SimulatorLogs
from nightbid.data.write import write_day
from nightbid.errors import CorruptDataError, MissingDataError
from nightbid.schema import REASON, TEXT

from .folders import DAY, DAYS, opened, read, write_csv


@pytest.fixture(scope="module")
def day_of_logs():
    logs = SimulatorLogs(SimulatorSource(rows_per_day=400, users=100, ads=50))
    return {day: pa.Table.from_batches(list(logs.batches(day))) for day in DAYS}


@pytest.mark.parametrize(
    "name", ["dt={}/part-0.parquet", "dt={}/hour=03/a.pq", "logs-{}.parquet", "y/{}.parquet"]
)
def test_parquet_round_trips(tmp_path, day_of_logs, name):
    for day, table in day_of_logs.items():
        path = tmp_path / name.format(day)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
    (tmp_path / "_SUCCESS").touch()
    pq.write_table(pa.table({"item": [1]}), tmp_path / "items.parquet")
    logs = opened(tmp_path)
    assert logs.days() == DAYS
    for day, table in day_of_logs.items():
        assert read(logs, day).equals(table)


def test_written_days_can_be_read_and_overwritten(tmp_path, day_of_logs):
    for day, table in day_of_logs.items():
        for _ in range(2):
            assert write_day(iter(table.to_batches(max_chunksize=100)), tmp_path, day) == len(table)
    assert sorted(os.listdir(tmp_path)) == [f"dt={day}" for day in DAYS]
    assert read(opened(tmp_path)).equals(day_of_logs[DAY])


def test_a_failed_write_keeps_the_previous_day(tmp_path, day_of_logs):
    table = day_of_logs[DAY]
    write_day(iter(table.to_batches()), tmp_path, DAY)

    def breaks():
        yield from table.slice(0, 10).to_batches()
        raise CorruptDataError("cut off")

    with pytest.raises(CorruptDataError):
        write_day(breaks(), tmp_path, DAY)
    assert os.listdir(tmp_path) == [f"dt={DAY}"]
    assert len(read(opened(tmp_path))) == len(table)
    with pytest.raises(MissingDataError, match="no rows of 2026-01-02"):
        write_day(iter([]), tmp_path, DAYS[1])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["dt={}/part.csv", "{:%Y%m%d}.csv"])
def test_csv_round_trips(tmp_path, day_of_logs, name, packed):
    for day, table in day_of_logs.items():
        path = tmp_path / (name.format(day) + (".gz" if packed else ""))
        path.parent.mkdir(parents=True, exist_ok=True)
        with (gzip.open if packed else open)(path, "wb") as stream:
            pcsv.write_csv(table.drop_columns(["interests"]), stream)
    logs = opened(tmp_path, "csv")
    assert logs.days() == DAYS
    rows = read(logs, DAYS[1])
    assert pc.all(pc.is_null(rows[REASON])).as_py()
    for name in rows.column_names:
        if name in (REASON, TEXT):
            continue
        was = day_of_logs[DAYS[1]][name]
        assert rows[name].cast(was.type).equals(was), name


def test_columns_are_renamed_and_typed_as_declared(tmp_path):
    write_csv(tmp_path, "imp;when;ad\n1;2026-01-01T10:00:00+02:00;007\n2;1767225600;8\n")
    rows = read(
        opened(
            tmp_path,
            "csv",
            delimiter=";",
            rename={"imp": "impression_id", "when": "time"},
            types={"ad": "string", "time": "time"},
        )
    ).to_pylist()
    assert [row["impression_id"] for row in rows] == [1, 2]
    assert [row["ad"] for row in rows] == ["007", "8"]
    assert [row["time"] for row in rows] == [
        datetime(2026, 1, 1, 8, tzinfo=UTC),
        datetime(2026, 1, 1, tzinfo=UTC),
    ]


def test_column_names_can_be_set_for_a_file_without_a_header(tmp_path):
    write_csv(tmp_path, "1\ta\n2\tb\n", f"{DAY}.tsv")
    rows = read(opened(tmp_path, "csv", names=("key", "name"))).to_pylist()
    assert [(row["key"], row["name"]) for row in rows] == [(1, "a"), (2, "b")]


def test_unreadable_lines_and_values_are_set_aside_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 512)
    lines = [f"{at},{at / 2},ad{at % 7}" for at in range(1000)]
    lines[3] = "3,cheap,ad3"
    lines[400] = "400,1.5"
    lines[401] = "401,1.5,ad2,and,more"
    lines[700] = "NA,3.5,ad0"
    lines[999] = "999"
    write_csv(tmp_path, "\n".join(["key,price,ad", *lines, ""]))
    logs = opened(tmp_path, "csv", types={"key": "int", "price": "float"})
    table = read(logs)
    aside = table.filter(pc.is_valid(table[REASON])).to_pylist()
    assert [(row["key"], row[REASON], row[TEXT]) for row in aside] == [
        (3, "price is not a number", "cheap"),
        (None, "line has 2 fields, not 3", "400,1.5"),
        (None, "line has 5 fields, not 3", "401,1.5,ad2,and,more"),
        (None, "line has 1 field, not 3", "999"),
    ]
    assert len(table) == 1000
    good = table.filter(pc.is_null(table[REASON]))
    assert pc.sum(good["price"]).as_py() == sum(
        at / 2 for at in range(1000) if at not in (3, 400, 401, 700, 999)
    ) + 3.5  # fmt: skip
    for _ in range(3):
        assert read(logs).equals(table)


def test_text_that_is_not_utf8_is_set_aside(tmp_path):
    (tmp_path / f"{DAY}.csv").write_bytes(b"key,name\n1,caf\xc3\xa9\n2,caf\xe9\n3,\n")
    rows = read(opened(tmp_path, "csv")).to_pylist()
    assert [row["name"] for row in rows] == ["café", None, None]
    assert [row[REASON] for row in rows] == [None, "name is not UTF-8", None]
    assert rows[1][TEXT] == r"caf\xe9"


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (
            "int",
            ["1", "-7", " 12 ", "9007199254740993", "0x1F", "9223372036854775807"],
            ["1.5", "x", "1e3", "+1", "9223372036854775808", "99999999999999999999"],
        ),
        ("float", ["1", "-.5", "1e-3", "5.", "inf", "-Infinity"], ["1,5", "x", "0x10", "1.2.3"]),
        ("bool", ["true", "0", "1", "False", "TRUE"], ["yes", "2", "t"]),
        (
            "time",
            ["2026-01-01", "2026-01-01 10:00:00", "2026-01-01T10:00", "2026-01-01 10:00:00.25"],
            ["x", "2026-13-01", "2026-01-01 25:00:00", "12"],
        ),
        ("time", ["2026-01-01T10:00:00Z", "2026-01-01 10:00:00+02:00"], ["Z", "10:00"]),
    ],
)  # fmt: skip
def test_values_are_cast_to_the_declared_type_or_set_aside(kind, good, bad):
    values = [*good, *bad, "", "NA"]
    table = pa.table({"v": pa.array([value.encode() for value in values])})
    cast = delimited.typed(table, {"v": kind})
    assert [reason is None for reason in cast[REASON].to_pylist()] == (
        [True] * len(good) + [False] * len(bad) + [True, True]
    )
    assert [value is None for value in cast["v"].to_pylist()] == (
        [False] * len(good) + [True] * (len(bad) + 2)
    )
    if kind == "int":
        assert cast["v"].to_pylist()[3] == 9007199254740993
    alone = delimited.typed(pa.table({"v": pa.array([v.encode() for v in good])}), {"v": kind})
    assert alone["v"].to_pylist() == cast["v"].to_pylist()[: len(good)]


def test_types_are_the_same_on_every_day(tmp_path):
    write_csv(tmp_path, "key,price\n1,0.5\n")
    write_csv(tmp_path, "key,price\n2,3\n", "2026-01-02.csv")
    logs = opened(tmp_path, "csv")
    assert read(logs, DAYS[1]).schema == read(logs, DAYS[0]).schema


def broken_folder(tmp_path, day_of_logs):
    for day, table in day_of_logs.items():
        write_day(iter(table.to_batches()), tmp_path, day)
    return tmp_path / f"dt={DAY}" / "part-00000.parquet"


def test_a_missing_day_or_folder_is_reported_with_the_days_present(tmp_path, day_of_logs):
    broken_folder(tmp_path, day_of_logs)
    with pytest.raises(MissingDataError, match=r"no day 2026-02-01.*2026-01-01 to 2026-01-02"):
        read(opened(tmp_path), date(2026, 2, 1))
    with pytest.raises(MissingDataError, match="no such folder"):
        opened(tmp_path / "nowhere")


@pytest.mark.parametrize("size", [0, 3, 5000])
def test_a_truncated_parquet_file_is_reported_with_its_name(tmp_path, day_of_logs, size):
    path = broken_folder(tmp_path, day_of_logs)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CorruptDataError, match="cannot be read as Parquet") as caught:
        read(opened(tmp_path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_gzip_file_is_reported_with_its_name(tmp_path):
    random = np.random.default_rng(0)
    text = "key,price\n" + "\n".join(f"{at},{random.random()}" for at in range(20_000))
    packed = gzip.compress(text.encode())
    (tmp_path / f"{DAY}.csv.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(CorruptDataError, match=r"2026-01-01\.csv\.gz: cannot be read as CSV"):
        read(opened(tmp_path, "csv", types={"key": "int", "price": "float"}))


def test_an_empty_partition_is_a_day_without_rows(tmp_path, day_of_logs):
    broken_folder(tmp_path, day_of_logs).unlink()
    logs = opened(tmp_path)
    assert logs.days() == DAYS
    assert list(logs.batches(DAY)) == []


def test_renaming_a_missing_or_duplicate_column_is_rejected(tmp_path, day_of_logs):
    broken_folder(tmp_path, day_of_logs)
    logs = opened(tmp_path, rename={"clicked": "clicks"})
    with pytest.raises(MissingDataError, match=r"column 'clicked' of source.rename is missing"):
        read(logs)
    with pytest.raises(CorruptDataError, match="two columns are called 'click'"):
        read(opened(tmp_path, rename={"conversion": "click"}))


def test_files_of_a_day_with_different_columns_are_rejected(tmp_path, day_of_logs):
    first = broken_folder(tmp_path, day_of_logs)
    second = first.with_name("part-00001.parquet")
    table = day_of_logs[DAY]
    shuffled = table.select(table.column_names[::-1])
    pq.write_table(shuffled, second)
    assert len(read(opened(tmp_path))) == 2 * len(table)
    pq.write_table(table.drop_columns(["region"]), second)
    with pytest.raises(MissingDataError, match=r"'region' of part-00000\.parquet"):
        read(opened(tmp_path))
    pq.write_table(table.append_column("extra", table["click"]), second)
    with pytest.raises(CorruptDataError, match="has the column 'extra'"):
        read(opened(tmp_path))
    place = table.column_names.index("bid")
    pq.write_table(table.set_column(place, "bid", table["region"]), second)
    with pytest.raises(CorruptDataError, match="does not have the same type"):
        read(opened(tmp_path))


def test_the_fingerprint_changes_only_for_changed_days(tmp_path, day_of_logs):
    path = broken_folder(tmp_path, day_of_logs)
    before = [opened(tmp_path).fingerprint((day,)) for day in DAYS]
    assert before == [opened(tmp_path).fingerprint((day,)) for day in DAYS]
    os.utime(path, ns=(1, 1))
    after = [opened(tmp_path).fingerprint((day,)) for day in DAYS]
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_column_types_of_a_csv_file_are_inferred_once(tmp_path):
    logs, cache = tmp_path / "logs", tmp_path / "cache"
    logs.mkdir()
    for day, ids in zip(DAYS, ("1\n2\n", "3\n0\n"), strict=True):
        write_csv(logs, "id,click\n" + ids.replace("\n", ",1\n"), f"{day}.csv")

    def types(use: bool = True) -> str:
        source = FolderSource(kind="csv", folder=str(logs))
        opened_ = FolderLogs(source, DAYS, cache if use else None)
        return opened_.identity(DAY, lambda path: path.name)["types"]

    assert types() == types(use=False) == '{"click": "int", "id": "int"}'
    looked = {path.name for path in (cache / "kinds").iterdir()}
    assert len(looked) == 2
    assert types() == types(use=False)
    assert {path.name for path in (cache / "kinds").iterdir()} == looked
    write_csv(logs, "id,click\n0042,1\n", f"{DAYS[1]}.csv")
    assert types() == types(use=False) == '{"click": "int", "id": "string"}'
    assert len(list((cache / "kinds").iterdir())) == 3


def test_days_are_listed_without_reading_files(tmp_path):
    """A night's window, arrival and `data days` list days; only reading a day reports errors."""
    for name in ("dt=2026-01-05/a.csv", "dt=2026-01-06/b.csv"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"a,a\n\xff")
    source = FolderLogs(FolderSource(kind="csv", folder=str(tmp_path)))
    assert source.days() == (date(2026, 1, 5), date(2026, 1, 6))
    assert [file.name for file in source.files(date(2026, 1, 6))] == ["b.csv"]
    with pytest.raises(CorruptDataError):
        list(source.batches(date(2026, 1, 6)))


@pytest.mark.parametrize("day_column", ["", "ts"])
def test_a_copied_file_is_refused_if_keys_are_generated(tmp_path, day_column):
    """Without logged keys, nothing else would show that its rows count twice."""
    times = pa.array([datetime(2026, 1, 1, 5, tzinfo=UTC)] * 9, pa.timestamp("us", "UTC"))
    rows = pa.table({"ts": times, "x": range(9)})
    parts = {"a": rows, "b": rows.slice(1), "empty": rows.slice(9), "none": rows.slice(9)}
    for name, part in parts.items():
        path = tmp_path / "logs" / ("" if day_column else f"dt={DAY}") / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(part, path)

    def identity(**block: str) -> dict[str, str]:
        return opened(tmp_path / "logs", **block).identity(
            DAY, lambda path: hashlib.sha256(path.read_bytes()).hexdigest()
        )

    block = {"make_key": "row", **({"day_column": day_column} if day_column else {})}
    identity(**block)
    shutil.copy(path.with_name("a.parquet"), path.with_name("a (1).parquet"))
    with pytest.raises(CorruptDataError, match=r"a \(1\)\.parquet and \S*a\.parquet hold the same"):
        identity(**block)
    # With logged keys, repeated rows are left out and counted.
    identity(**{**block, "make_key": ""})
