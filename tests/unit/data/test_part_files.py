"""Typed files that disagree on types, and logs of many columns, are read or refused."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.orc as orc
import pyarrow.parquet as pq
import pytest
from nightbid.config.folder_source import FolderSource
from nightbid.data.folder import FolderLogs
from nightbid.data.window_columns import OTHER_COLUMNS
from nightbid.errors import CorruptDataError
from nightbid.schema import REASON, TEXT

from .folders import DAY, DAYS, one_line, opened, read, write_parts


@pytest.mark.parametrize("kind", ["parquet", "orc"])
def test_a_duplicate_column_name_of_typed_files_is_rejected(tmp_path, kind):
    table = pa.table([pa.array([1]), pa.array([2])], names=["price", "price"])
    path = tmp_path / f"{DAY}.{kind}"
    (pq.write_table if kind == "parquet" else orc.write_table)(table, path)
    with pytest.raises(CorruptDataError, match="two columns are called 'price'") as caught:
        read(opened(tmp_path, kind))
    assert path.name in one_line(caught)


@pytest.mark.parametrize(
    ("one", "other", "values"),
    [
        (pa.nulls(1), pa.array(["x"]), [None, "x"]),
        (pa.array([1], pa.int32()), pa.array([2**40]), [1, 2**40]),
        (pa.array([1]), pa.array([1.87]), [1.0, 1.87]),
        (pa.array([1], pa.uint8()), pa.array([-1], pa.int8()), [1, -1]),
        (pa.array([2**63], pa.uint64()), pa.array([-1]), [str(2**63), "-1"]),
        (pa.array([7]), pa.array(["007"]), ["7", "007"]),
        (pa.array(["a"]).dictionary_encode(), pa.array(["b"]), ["a", "b"]),
        (
            pa.array([Decimal("1.5")]),
            pa.array([Decimal("1.25")]),
            [Decimal("1.5"), Decimal("1.25")],
        ),
        (pa.array([True]), pa.array([0]), [1, 0]),
        (pa.array([[1]]), pa.array([[]], pa.list_(pa.null())), [[1], []]),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("apart", [False, True])
def test_types_of_part_files_are_widened(tmp_path, one, other, values, swapped, apart):
    parts = [pa.table({"v": column}) for column in (one, other)][:: -1 if swapped else 1]
    if apart:
        for day, part in zip(DAYS, parts, strict=True):
            write_parts(tmp_path, part, day=day)
    else:
        write_parts(tmp_path, *parts)
    logs = opened(tmp_path, "parquet")
    table = pa.concat_tables(read(logs, day) for day in logs.days())
    assert table["v"].to_pylist() == values[:: -1 if swapped else 1]


@pytest.mark.parametrize("values", [pa.array(["x"]), pa.array([[1]]), pa.array([True])])
def test_incompatible_types_of_part_files_are_rejected(tmp_path, values):
    write_parts(tmp_path, pa.table({"v": [1.5]}), pa.table({"v": values}))
    with pytest.raises(CorruptDataError, match="column 'v' does not have the same type") as caught:
        read(opened(tmp_path, "parquet"))
    text = one_line(caught)
    assert "part-1.parquet" in text
    assert "part-0.parquet" in text
    assert str(values.type).split("<")[0] in text
    assert "double" in text


def test_an_integer_that_a_float_would_round_is_rejected(tmp_path):
    write_parts(tmp_path, pa.table({"v": [1.5]}), pa.table({"v": [2**53 + 1]}))
    with pytest.raises(CorruptDataError, match="column 'v' is int64 here and double") as caught:
        read(opened(tmp_path, "parquet"))
    assert "part-1.parquet" in one_line(caught)


def test_declared_types_are_applied_to_parquet(tmp_path):
    table = pa.table({"zip": [1234, None], "price": ["1.5", "cheap"], "seen": [1767571200, None]})
    write_parts(tmp_path, table)
    types = {"zip": "string", "price": "float", "seen": "time"}
    rows = read(opened(tmp_path, "parquet", types=types)).to_pylist()
    assert [row["zip"] for row in rows] == ["1234", None]
    assert [row["price"] for row in rows] == [1.5, None]
    assert [row[REASON] for row in rows] == [None, "price is not a number"]
    assert rows[1][TEXT] == "cheap"
    assert rows[0]["seen"].date() == date(2026, 1, 5)


# Wide logs


def wide(folder, kind: str, columns: int = 300, **extra):
    (folder / f"dt={DAY}").mkdir(exist_ok=True)
    table = pa.table({"click": [0, 1], **{f"c{at}": [at, at] for at in range(columns)}, **extra})
    path = folder / f"dt={DAY}" / f"part.{kind}"
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        pcsv.write_csv(table, path)
    return folder


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_wide_logs_are_read_with_named_columns_and_a_few_others(tmp_path, kind):
    folder = wide(tmp_path, kind, note=["one\ntwo", "three"])
    block = FolderSource(kind=kind, folder=str(folder))
    logs = FolderLogs(block, [DAY], named={"click", "c299", "absent"})
    names = [name for name in read(logs).column_names if name not in (REASON, TEXT)]
    assert {"click", "c299"} <= set(names)
    assert len(names) == 2 + OTHER_COLUMNS
    # The columns to read are part of the rows' identity: another column, another fingerprint.
    prints = {FolderLogs(block, [DAY], named={"click", name}).fingerprint((DAY,)) for name in
              ("c1", "c298", "c299")}  # fmt: skip
    assert len(prints) == 3
    narrow = FolderLogs(block, [DAY])
    assert len(read(narrow).column_names) >= 302


def test_unnamed_columns_with_incompatible_types_are_dropped(tmp_path):
    one = pa.table({"click": [0], "note": ["a"], "only": [1]})
    other = pa.table({"click": [1], "note": [[1.5]], "late": [1]})
    write_parts(tmp_path, one, other)
    logs = FolderLogs(FolderSource(kind="parquet", folder=str(tmp_path)), [DAY], named={"click"})
    assert read(logs)["click"].to_pylist() == [0, 1]
    assert "note" not in read(logs).column_names  # no type fits both
    named = FolderLogs(
        FolderSource(kind="parquet", folder=str(tmp_path)), [DAY], named={"click", "note"}
    )
    with pytest.raises(CorruptDataError, match="note"):
        read(named)
