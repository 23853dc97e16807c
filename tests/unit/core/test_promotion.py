"""Promotion refuses a model unless all its parts were judged together."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path

import pytest
from bundles import put_bundle
from nightbid.config.load import find_pipeline
from nightbid.config.pipeline import Night
from nightbid.errors import ConfigError, NightbidError, StageError
from nightbid.night.champion import ChampionPointer
from nightbid.night.manifest import Manifest
from nightbid.night.record import RunRecord
from nightbid.night.sealed import seal
from nightbid.night.stages import NIGHT, stage_named
from nightbid.night.task import StageInput, StageTask
from nightbid.promotion import retire, roll_back, run
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


def test_a_champion_that_has_learned_the_evaluated_days_is_not_replaced(tmp_path: Path) -> None:
    night = task(tmp_path)
    RunRecord.start(night.workspace, night.spec, DATE, run_id="serves")
    ChampionPointer(night.workspace, "ctr").promote(
        run_id="serves", night=DATE, bundle_uri="stages/b", bundle_digest="b", reason="better"
    )
    window = night.spec.window.model_copy(update={"evaluate_days": 3})
    wider = night.spec.model_copy(update={"window": window})
    outcome = run(dataclasses.replace(night, spec=wider, night=Night.of(wider, DATE)))
    assert outcome.summary.startswith(
        "not promoted: champion #1 has learned 2026-01-06 and 2026-01-07"
    )


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


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Three nights were promoted, and the last one serves."""
    workspace = Workspace(str(tmp_path / "workspace"))
    for number in (1, 2, 3):
        put_bundle(workspace, f"stages/{number}", str(number) * 32, "ctr")
        ChampionPointer(workspace, "ctr").promote(
            run_id=f"night-{number}", night=DATE + dt.timedelta(days=number),
            bundle_uri=f"stages/{number}", bundle_digest=str(number) * 32, reason="better",
        )  # fmt: skip
    return workspace


@pytest.mark.parametrize("damage", ["deleted", "other", "changed"])
def test_a_rollback_to_a_bundle_that_cannot_serve_changes_nothing(
    workspace: Workspace, damage: str
) -> None:
    manifest = workspace.at("stages/2") / "manifest.json"
    if damage == "deleted":
        manifest.unlink()
    elif damage == "other":
        put_bundle(workspace, "stages/2", "9" * 32, "ctr")
    else:
        manifest.write_text(manifest.read_text().replace("export", "exp0rt"))
    pointer = ChampionPointer(workspace, "ctr")
    # The scorer would keep the champion that should go, and only /health would tell.
    line = r"stages/2: the bundle of #2 \(night-2\) cannot serve, so nothing was changed: .* → "
    line += "`nightbid rollback ctr --to NUMBER --reason …` to another one, or run the night of "
    line += "2026-01-10"
    with pytest.raises(NightbidError, match=line):
        roll_back(workspace, "ctr", "CTR fell")
    with pytest.raises(NightbidError, match=line):
        retire(workspace, "ctr", 3, "it read the install time")
    assert len(pointer.history()) == 3
    # Nothing serves the damaged one, so it may be retired; then the one before it is next.
    retire(workspace, "ctr", 2, "damaged")
    assert roll_back(workspace, "ctr", "CTR fell").run_id == "night-1"


def test_rollbacks_need_a_reason_and_an_entry_that_serves(workspace: Workspace) -> None:
    for act in (lambda: roll_back(workspace, "ctr", " "), lambda: retire(workspace, "ctr", 1, "")):
        with pytest.raises(ConfigError, match="needs a reason → add --reason"):
            act()
    for number in (3, 2, 1):
        retire(workspace, "ctr", number, "leak")
    for number in (0, 6, 9):  # entry 6 says that nothing serves
        with pytest.raises(ConfigError, match=f"no earlier champion with number {number} to go"):
            roll_back(workspace, "ctr", "x", number)
    assert roll_back(workspace, "ctr", "it was fine", 2).run_id == "night-2"
