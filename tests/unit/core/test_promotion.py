"""Promotion refuses a model unless all its parts were judged together."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from nightbid.config.load import find_pipeline
from nightbid.config.pipeline import Night
from nightbid.errors import StageError
from nightbid.night.champion import ChampionPointer
from nightbid.night.manifest import Manifest
from nightbid.night.record import RunRecord
from nightbid.night.sealed import seal
from nightbid.night.stages import NIGHT, stage_named
from nightbid.night.task import StageInput, StageTask
from nightbid.promotion import run
from nightbid.storage.workspace import Workspace

DATE = dt.date(2026, 1, 8)


def task(root: Path, **other: dict[str, str]) -> StageTask:
    """Create a night whose stages agree, except `other`: stage → the inputs that it names."""
    workspace = Workspace(str(root / "workspace"))
    spec = find_pipeline("ctr", Path("include/pipelines"))
    inputs = {}
    for stage in NIGHT[:-1]:
        folder = workspace.stage_folder("ctr", stage.name, "k")
        folder.mkdir(parents=True)
        manifest = Manifest(
            pipeline="ctr", run_id="r", stage=stage.name, night=str(DATE), key="k",
            digest=f"digest of {stage.name}",
            inputs={name: f"digest of {name}" for name in stage.inputs} | other.get(stage.name, {}),
            spec_digest="", code_digest="", versions={}, seed=0, created=dt.datetime.now(dt.UTC),
            verdict="pass" if stage.is_gate else None,
            metrics={"verdict": "better", "reference": "baseline"},
        )  # fmt: skip
        (folder / "manifest.json").write_text(seal(manifest))
        if stage.name in stage_named("promote").inputs:
            inputs[stage.name] = StageInput(manifest, folder)
    RunRecord.start(workspace, spec, DATE, run_id="r")
    (output := root / "output").mkdir()
    return StageTask(
        spec=spec, night=Night.of(spec, DATE), run_id="r", inputs=inputs, history=(),
        output=output, workspace=workspace, cache=root,
    )  # fmt: skip


def test_a_night_with_consistent_stages_is_promoted(tmp_path: Path) -> None:
    night = task(tmp_path)
    assert run(night).metrics["decision"] == "promoted"
    assert ChampionPointer(night.workspace, "ctr").current() is not None


def test_promotion_fails_when_a_gate_judged_another_output(tmp_path: Path) -> None:
    night = task(tmp_path, gate_model={"evaluate": "an older digest"})
    with pytest.raises(StageError, match="gate_model come from different outputs of evaluate"):
        run(night)
    assert ChampionPointer(night.workspace, "ctr").current() is None


def test_promotion_fails_when_stages_read_different_rows(tmp_path: Path) -> None:
    night = task(tmp_path, export={"sample": "rows of another attempt"})
    with pytest.raises(StageError, match=r"different outputs of sample.*clear sample"):
        run(night)


def test_promotion_fails_when_another_process_took_over_the_run(tmp_path: Path) -> None:
    night = task(tmp_path)
    other = find_pipeline("ctr", Path("include/pipelines"), ("train.epochs=7",))
    RunRecord.start(night.workspace, other, DATE, run_id="r")
    with pytest.raises(
        StageError, match=r"took over this run with other settings.*nightbid runs ctr"
    ):
        run(night)
    assert ChampionPointer(night.workspace, "ctr").current() is None
