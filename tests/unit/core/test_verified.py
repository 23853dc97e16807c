"""Verifies the bytes of an output against its manifest."""

from __future__ import annotations

import datetime as dt
import os
import shutil
from pathlib import Path

import pytest
from nightbid.config.pipeline import PipelineSpec
from nightbid.errors import CorruptDataError
from nightbid.night.key import read_output
from nightbid.night.manifest import FileEntry
from nightbid.night.record import RunRecord
from nightbid.night.stage import Stage
from nightbid.runner import run_stage
from nightbid.storage.verify import file_digest, strangers, verify
from nightbid.storage.workspace import Workspace


@pytest.fixture
def output(tmp_path: Path) -> tuple[Path, list[FileEntry]]:
    for name in ("a.parquet", "b.json"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
    files = [
        FileEntry(path=path.name, size=path.stat().st_size, digest=file_digest(path))
        for path in sorted(tmp_path.iterdir())
    ]
    return tmp_path, files


def test_every_change_to_an_output_file_is_detected(output):
    folder, files = output
    path = folder / "a.parquet"
    whole, times = path.read_bytes(), path.stat()
    verify(folder, files, "there", "rerun")
    for bad in (whole[:-1], whole[:50] + b"X" + whole[51:], None):
        if bad is None:
            path.unlink()
        else:
            path.write_bytes(bad)
            # Size and time are unchanged, but the file system knows that the file was touched.
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        with pytest.raises(CorruptDataError, match=r"there: a\.parquet"):
            verify(folder, files, "there", "rerun")
    path.write_bytes(whole)
    verify(folder, files, "there", "rerun")


def test_files_missing_from_the_manifest_are_reported(output):
    folder, files = output
    assert strangers(folder, files) == []
    (folder / "old.parquet").write_bytes(b"")
    assert strangers(folder, files) == ["old.parquet is not in the manifest"]


def test_an_intact_output_in_the_wrong_folder_is_rejected_and_rebuilt(
    tmp_path, monkeypatch, caplog
) -> None:
    (tmp_path / "dated_stage.py").write_text(
        "from nightbid.night.task import Outcome\n\n\n"
        "def work(task):\n"
        "    (task.output / 'night.txt').write_text(str(task.night.date))\n"
        "    return Outcome()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    stage = Stage("sample", "dated_stage:work", inputs=(), spec_keys=())
    spec = PipelineSpec.model_validate({"pipeline": "small", "features": {"a": {"column": "a"}}})
    workspace = Workspace(str(tmp_path / "workspace"))

    def made(day: int) -> Path:
        run = RunRecord.start(workspace, spec, dt.date(2026, 1, day))
        run_stage(stage, spec, run, cache_folder=tmp_path / "cache")
        return tmp_path / "workspace" / run.stage("sample").uri

    first, second = made(8), made(9)
    # A backup goes to the wrong folder: every file matches its manifest there.
    shutil.rmtree(second)
    shutil.copytree(first, second)
    with pytest.raises(
        CorruptDataError, match="this folder contains another output: sample with the key"
    ):
        read_output(workspace, workspace.uri(workspace.root / second.relative_to(
            tmp_path / "workspace")))  # fmt: skip
    assert (made(9) / "night.txt").read_text() == "2026-01-09"
    assert "damaged output set aside" in caplog.text
    assert (first / "night.txt").read_text() == "2026-01-08"
