"""Which files belong to which day: names of folders and files, partitions, links."""

from __future__ import annotations

import os
import resource

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
from nightbid.data.day_names import NO_VALUE
from nightbid.errors import CorruptDataError, DataError, MissingDataError, WorkspaceError

from .folders import DAY, DAYS, opened, read, write_parts


@pytest.mark.parametrize(
    "name",
    [
        "year={0:%Y}/month={0.month}/day={0.day}/a.parquet",
        "year={0:%Y}/month={0:%m}/day={0:%d}/hour=03/a.parquet",
        "{0:%Y/%m/%d}/a.parquet",
        "dt={0:%Y%m%d}/a.parquet",
        "{0}/a.parquet",
        "{0:%Y%m%d}/a.parquet",
        "events/{0}/part-0.snappy.parquet",
        "dt={0}/000000_0",
        "{0}",
        "dt={0}/hour=3/a.parquet",
        "{0:%Y/%m/%d}/03/a.parquet",
        "dt={0}-03/a.parquet",
        "hour={0:%Y%m%d}03/a.parquet",
        "{0:%Y%m%d}03-part-0.parquet",
        "ads_{0:%Y_%m_%d}.parquet",
        "{0:%Y.%m.%d}/a.parquet",
        "dt={0:%Y_%m_%d}/a.parquet",
    ],
)
def test_days_are_recognized_by_folder_and_file_names(tmp_path, name):
    for at, day in enumerate(DAYS):
        path = tmp_path / name.format(day)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"v": [at]}), path)
        (path.parent / "_SUCCESS").touch()
    logs = opened(tmp_path)
    assert logs.days() == DAYS
    assert [read(logs, day)["v"].to_pylist() for day in DAYS] == [[0], [1]]


def test_a_folder_that_cannot_be_listed_is_an_error_not_a_missing_day(tmp_path):
    path = tmp_path / f"dt={DAY}" / "hour=03" / "a.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"v": [1]}), path)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    # No file can be opened. Permissions would not keep root, who runs tests in containers, away.
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        with pytest.raises(WorkspaceError) as error:
            opened(tmp_path).days()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert str(error.value) == (
        f"{tmp_path}: the folder cannot be listed (Too many open files)"
        f" → allow more than {free} open files (ulimit -n)"
    )


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_partitions_other_than_days_become_columns(tmp_path, kind):
    for country, rows in (("DE", [1]), ("C%C3%B4te d%27Ivoire", [2, 3]), (NO_VALUE, [4])):
        folder = tmp_path / f"dt={DAY}" / f"country={country}" / "hour=03" / "slot=07"
        folder.mkdir(parents=True)
        table = pa.table({"v": rows})
        if kind == "parquet":
            pq.write_table(table, folder / "part.parquet")
        elif kind == "csv":
            pcsv.write_csv(table, folder / "part.csv")
        else:
            (folder / "part.jsonl").write_text("".join(f'{{"v": {row}}}\n' for row in rows))
    logs = opened(tmp_path, kind)
    rows = {row["v"]: (row["country"], row["slot"]) for row in read(logs).to_pylist()}
    assert rows == {1: ("DE", "07"), **dict.fromkeys((2, 3), ("Côte d'Ivoire", "07")),
                    4: (None, "07")}  # fmt: skip
    assert "hour" not in read(logs).column_names
    typed = opened(tmp_path, kind, types={"slot": "int"}, rename={"country": "geo"})
    assert {row["slot"] for row in read(typed).to_pylist()} == {7}
    assert read(typed)["geo"].null_count == 1
    with pytest.raises(CorruptDataError, match=r"folder country=.* is not a whole number"):
        read(opened(tmp_path, kind, types={"country": "int"}))
    # The same bytes in a folder with another name are different rows.
    one = logs.identity(DAY, lambda path: path.read_bytes().hex())
    os.rename(tmp_path / f"dt={DAY}" / "country=DE", tmp_path / f"dt={DAY}" / "country=FR")
    assert opened(tmp_path, kind).identity(DAY, lambda path: path.read_bytes().hex()) != one


def test_hour_folders_form_a_day_and_week_folders_are_rejected(tmp_path):
    for hour in range(3):
        path = tmp_path / f"dt={DAY}" / f"hour={hour:02d}" / "a.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table({"v": [hour]}), path)
    assert read(opened(tmp_path))["v"].to_pylist() == [0, 1, 2]
    os.rename(tmp_path / f"dt={DAY}", tmp_path / "week=2026-W02")
    with pytest.raises(MissingDataError, match=r"weeks need source\.partition: week"):
        read(opened(tmp_path))


def test_symbolic_links_are_followed_once(tmp_path):
    (tmp_path / "mnt").mkdir()
    (tmp_path / "logs").mkdir()
    write_parts(tmp_path / "mnt", pa.table({"v": [1]}))
    (tmp_path / "logs" / f"dt={DAY}").symlink_to(tmp_path / "mnt" / f"dt={DAY}")
    (tmp_path / "mnt" / f"dt={DAY}" / "again").symlink_to(tmp_path / "mnt" / f"dt={DAY}")
    logs = opened(tmp_path / "logs")
    assert read(logs)["v"].to_pylist() == [1]


def test_unrelated_files_and_empty_folders_are_ignored(tmp_path):
    write_parts(tmp_path, pa.table({"v": [1]}))
    pq.write_table(pa.table({"user": [1]}), tmp_path / "users-90210555.parquet")
    (tmp_path / "dt=2026-01-32").mkdir()
    (tmp_path / "2026-13-01").mkdir()
    logs = opened(tmp_path)
    assert logs.days() == (DAY,)
    pq.write_table(pa.table({"v": [1]}), tmp_path / "dt=2026-01-32" / "a.parquet")
    with pytest.raises(CorruptDataError, match="'2026-01-32' is not a day") as caught:
        opened(tmp_path).days()
    assert "\n" not in str(caught.value)


def test_a_day_in_another_format_is_reported_with_its_files(tmp_path):
    write_parts(tmp_path, pa.table({"v": [1]}))
    os.rename(tmp_path / f"dt={DAY}" / "part-0.parquet", tmp_path / f"dt={DAY}" / "a.json")
    with pytest.raises(DataError, match=r"has no parquet file; it has a\.json") as caught:
        read(opened(tmp_path))
    assert "\n" not in str(caught.value)
