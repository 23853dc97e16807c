"""Edits of a pipeline during a night do not change that night."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from nightbid.config.load import find_pipeline, pipeline_names
from nightbid.config.pipeline import PipelineSpec
from nightbid.config.settings import Settings
from nightbid.errors import ConfigError, StageError
from nightbid.night.attempts import StageRecord
from nightbid.night.record import HEARTBEAT, RunRecord
from nightbid.night.stages import all_after, stage_named
from nightbid.night.turns import Turns
from nightbid.storage.workspace import Workspace
from nightbid_airflow.operators import StageOperator
from nightbid_airflow.request import NightRequest
from nightbid_airflow.turn import runs_at_work

ASKED = NightRequest("small", "manual__1", dt.date(2026, 1, 5), ())


def edit(before: str, after: str) -> None:
    path = Settings().pipelines / "small.yaml"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def done(run: RunRecord, *stages: str) -> None:
    for stage in stages:
        run.record(
            StageRecord(
                stage=stage, state="done", uri=f"stages/{stage}", seconds=1.0,
                started=dt.datetime.now(dt.UTC),
            )
        )  # fmt: skip


def test_later_tasks_use_the_settings_that_the_run_began_with(pipelines) -> None:
    pipelines()
    first, _ = ASKED.open(Settings(), stage_named("sample"))
    edit("train_days: 2", "train_days: 1")
    later, _ = ASKED.open(Settings(), stage_named("train"))
    assert later == first
    assert later.window.train_days == 2
    fresh, _ = NightRequest("small", "manual__2", ASKED.date, ()).open(Settings())
    assert fresh.window.train_days == 1


def test_settings_of_shipped_pipelines_round_trip_through_json() -> None:
    folder = Path("include/pipelines")
    for name in pipeline_names(folder):
        spec = find_pipeline(name, folder)
        assert PipelineSpec.model_validate(spec.model_dump(mode="json")) == spec


def test_a_cleared_task_uses_an_edit_that_affects_no_finished_stage(pipelines) -> None:
    pipelines()
    _, run = ASKED.open(Settings(), stage_named("sample"))
    done(run, "sample", "gate_raw", "featurize", "gate_features")
    edit("epochs: 1", "epochs: 2")
    spec, _ = ASKED.open(Settings(), stage_named("train"), is_cleared=True)
    assert spec.train.epochs == 2
    later, _ = ASKED.open(Settings(), stage_named("evaluate"))
    assert later.train.epochs == 2, "what waits for the cleared task goes on with the same"


def test_an_edit_that_affects_a_finished_stage_says_which_task_to_clear(pipelines) -> None:
    pipelines()
    _, run = ASKED.open(Settings(), stage_named("sample"))
    done(run, "sample", "gate_raw", "featurize", "gate_features")
    edit("train_days: 2", "train_days: 1")
    expected = r"sample of this run was made with other settings \(.*train_days: 1.*clear sample"
    with pytest.raises(ConfigError, match=expected):
        ASKED.open(Settings(), stage_named("train"), is_cleared=True)
    spec, _ = ASKED.open(Settings(), stage_named("train"))
    assert spec.window.train_days == 2, "a refusal changes nothing"
    spec, _ = ASKED.open(Settings(), stage_named("sample"), is_cleared=True)
    assert spec.window.train_days == 1


def test_an_edit_that_affects_a_parallel_stage_says_to_clear_above_both(pipelines) -> None:
    pipelines()
    _, run = ASKED.open(Settings(), stage_named("sample"))
    done(run, "sample", "gate_raw", "featurize", "gate_features", "train_baseline")
    edit("epochs: 1", "epochs: 2")
    with pytest.raises(ConfigError, match=r"train_baseline .*clear gate_features with Downstream"):
        ASKED.open(Settings(), stage_named("train"), is_cleared=True)


def test_a_stage_is_refused_when_its_code_changed_since_the_run_began(pipelines) -> None:
    pipelines()
    _, run = ASKED.open(Settings(), stage_named("sample"))
    run.pin(ASKED.open(Settings())[0], {**run.head.code, "train": "0" * 32})
    with pytest.raises(StageError, match=r"the code of train or a library .* clear sample"):
        ASKED.open(Settings(), stage_named("train"))
    ASKED.open(Settings(), stage_named("featurize"))
    ASKED.open(Settings(), stage_named("train"), is_cleared=True)
    ASKED.open(Settings(), stage_named("train"))


def test_all_other_stages_follow_the_first_and_none_follows_the_last() -> None:
    assert len(all_after(stage_named("sample"))) == 14
    assert not all_after(stage_named("promote"))


def test_a_failed_stage_is_retried_once_and_lost_workers_do_not_count(
    pipelines,
) -> None:
    pipelines()
    _, run = ASKED.open(Settings(), stage_named("sample"))
    task = StageOperator(task_id="sample", stage="sample", pipeline="small")

    def failed(attempt: int) -> bool:
        run.record(
            StageRecord(
                stage="sample", state="failed", error="x", seconds=1.0, attempt=attempt,
                started=dt.datetime.now(dt.UTC),
            )
        )  # fmt: skip
        return task._has_failed_twice(run, before=0)

    assert not failed(1)
    assert failed(3), "the second attempt was lost with its worker"
    assert not task._has_failed_twice(run, before=3), "a person cleared the task"


def test_a_night_waits_for_a_night_of_another_airflow_in_its_workspace(
    pipelines, monkeypatch
) -> None:
    pipelines()
    workspace = Workspace(Settings().workspace)
    _, other = ASKED.open(Settings(), stage_named("sample"))
    Turns(workspace, "small").take(ASKED.run_id, ASKED.date, lambda _: False)
    known = {"mine": "queued"}

    def count(dag_id: str, run_ids: list[str], states: list[str] | None) -> int:
        """Count runs as the database of this Airflow does."""
        return sum(known.get(run_id, "") in (states or ["queued"]) for run_id in run_ids)

    monkeypatch.setattr(RuntimeTaskInstance, "get_dr_count", count)

    def take() -> str:
        at_work = runs_at_work("nightly_small", workspace, "small")
        return Turns(workspace, "small").take("mine", dt.date(2026, 1, 6), at_work)

    (other.folder / HEARTBEAT).write_text(dt.datetime.now(dt.UTC).isoformat())
    assert take() == ASKED.run_id, "its triggerer gives signs of life"
    known[ASKED.run_id] = "queued"
    assert take() == "", "a run of this Airflow that is not running"
