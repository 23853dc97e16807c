"""Bytes of an output against its manifest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from nightbid.errors import CorruptDataError
from nightbid.night.manifest import FileEntry
from nightbid.storage.verify import file_digest, strangers, verify


@pytest.fixture
def output(tmp_path: Path) -> tuple[Path, list[FileEntry]]:
    for name in ("a.parquet", "b.json"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
    files = [
        FileEntry(path=each.name, size=each.stat().st_size, digest=file_digest(each))
        for each in sorted(tmp_path.iterdir())
    ]
    return tmp_path, files


def test_every_change_is_noticed(output):
    folder, files = output
    path = folder / "a.parquet"
    whole, times = path.read_bytes(), path.stat()
    verify(folder, files, "there", "rerun")
    for bad in (whole[:-1], whole[:50] + b"X" + whole[51:], None):
        if bad is None:
            path.unlink()
        else:
            path.write_bytes(bad)
            # Size and time as before: the file system still knows that it was touched.
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        with pytest.raises(CorruptDataError, match=r"there: a\.parquet"):
            verify(folder, files, "there", "rerun")
    path.write_bytes(whole)
    verify(folder, files, "there", "rerun")


def test_rows_that_no_manifest_names_are_a_fault(output):
    folder, files = output
    assert strangers(folder, files) == []
    (folder / "old.parquet").write_bytes(b"")
    assert strangers(folder, files) == ["old.parquet is not in the manifest"]
