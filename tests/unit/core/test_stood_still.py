"""A process that stalled past its heartbeat limit ends no work that others have taken over.

`benchmarks/chaos.py` stalls whole nights at every file operation.
"""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import pytest
from nightbid.config.pipeline import PipelineSpec
from nightbid.errors import ConcurrentUpdateError, StageError
from nightbid.night import reference
from nightbid.night.attempts import StageRecord
from nightbid.night.champion import ChampionPointer
from nightbid.night.head import write_head
from nightbid.night.record import RunRecord
from nightbid.night.reference import pinned_champion
from nightbid.night.stages import stage_named
from nightbid.night.turns import Turns
from nightbid.runner import run_stage
from nightbid.storage.files import write_once
from nightbid.storage.workspace import Workspace, inode_of, set_aside

NIGHT = dt.date(2026, 1, 8)


def spec(epochs: int) -> PipelineSpec:
    return PipelineSpec.model_validate(
        {"pipeline": "p", "features": {"a": {"column": "a"}}, "train": {"epochs": epochs}}
    )


def start(root: Path, epochs: int) -> RunRecord:
    return RunRecord.start(Workspace(str(root)), spec(epochs), NIGHT, run_id="r")


def record_stage(run: RunRecord, stage: str, uri: str) -> None:
    run.record(StageRecord(stage=stage, state="done", uri=uri, seconds=1.0,
                           started=dt.datetime.now(dt.UTC)))  # fmt: skip


def test_late_records_of_a_stalled_process_are_ignored(tmp_path: Path) -> None:
    stalled = start(tmp_path, 1)
    record_stage(stalled, "sample", "stages/sample")
    other = start(tmp_path, 2)
    for stage in ("sample", "featurize", "train", "evaluate"):
        record_stage(other, stage, f"stages/{stage}-of-2")
    record_stage(stalled, "train", "stages/train-of-1")
    stages = RunRecord.load(other.workspace, "p", "r").current()
    assert stages["train"].uri == "stages/train-of-2"
    assert stages["evaluate"].uri == "stages/evaluate-of-2", "not taken for one of older inputs"


def test_a_stalled_process_cannot_restore_its_settings(tmp_path: Path) -> None:
    stalled = start(tmp_path, 1)
    start(tmp_path, 2)
    with pytest.raises(ConcurrentUpdateError, match="took over this run with other settings"):
        stalled.pin(spec(3), {})
    now = RunRecord.load(stalled.workspace, "p", "r").head
    assert now.spec["train"]["epochs"] == 2  # type: ignore[index]
    again = start(tmp_path, 1).head
    assert (again.revision, again.number) == (3, stalled.head.number), "a person begins it over"


def test_a_stalled_process_cannot_start_a_stage(tmp_path: Path) -> None:
    stalled = start(tmp_path, 1)
    start(tmp_path, 2)
    with pytest.raises(StageError, match=r"r: another process took over this run.*nightbid runs p"):
        run_stage(stage_named("sample"), spec(1), stalled, cache_folder=tmp_path / "cache")


def test_processes_with_equal_settings_share_one_run(tmp_path: Path) -> None:
    first, second = start(tmp_path, 1), start(tmp_path, 1)
    assert first.head == second.head
    # The first process has taken its number but has not written the copy yet.
    (first.folder / "run.json").unlink()
    # A second process looked before that and found no run.
    later = first.head.model_copy(update={"started": dt.datetime.now(dt.UTC), "number": 7})
    assert write_head(first.folder, later, None) == first.head
    first.check_is_ours()
    assert len(list((first.folder / "heads").iterdir())) == 1


def test_a_rerun_works_after_a_kill_between_the_claim_and_its_copy(tmp_path: Path) -> None:
    run = start(tmp_path, 1)
    (run.folder / "run.json").unlink()
    taken_up = start(tmp_path, 1)
    assert RunRecord.load(run.workspace, "p", "r").head == taken_up.head == run.head
    before = (run.folder / "run.json").read_bytes()
    start(tmp_path, 2)
    (run.folder / "run.json").write_bytes(before)
    assert start(tmp_path, 3).head.revision == 3
    assert RunRecord.load(run.workspace, "p", "r").head.revision == 3


def test_a_run_keeps_the_champion_that_was_pinned_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(tmp_path, 1)
    pointer = ChampionPointer(run.workspace, "p")

    def stands_still(path, text) -> None:
        # Another process of the run is faster, and a champion is promoted in the meantime.
        monkeypatch.setattr(reference, "write_once", write_once)
        pointer.promote(run_id="x", night=NIGHT, bundle_uri="b", bundle_digest="d", reason="better")
        assert pinned_champion(RunRecord.load(run.workspace, "p", "r")) is not None
        write_once(path, text)

    monkeypatch.setattr(reference, "write_once", stands_still)
    pinned = pinned_champion(run)
    assert pinned is not None
    assert pinned.bundle_digest == "d"


def test_a_lost_turn_is_detected(tmp_path: Path) -> None:
    turns = Turns(Workspace(str(tmp_path)), "p")
    assert not turns.has("first")
    turns.take("first", NIGHT, lambda ids: False)
    assert turns.has("first")
    turns.take("second", NIGHT, lambda ids: False)
    assert turns.has("second")
    assert not turns.has("first")


def test_an_output_that_was_recreated_is_not_set_aside(tmp_path: Path) -> None:
    folder = Workspace(str(tmp_path)).root / "output"
    folder.mkdir()
    damaged = inode_of(folder)
    os.rename(str(folder), str(tmp_path / "elsewhere"))
    folder.mkdir()
    (folder / "sound.txt").write_text("sound")
    assert set_aside(folder, damaged) == ""
    assert (folder / "sound.txt").read_text() == "sound"
    assert set_aside(folder, inode_of(folder)).startswith(".damaged-output-")
    assert not folder.exists()
