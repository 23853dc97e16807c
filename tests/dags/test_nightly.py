"""The nightly DAGs as Airflow parses them, without a run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, ParamValidationError
from nightbid.config.load import find_pipeline, pipeline_names
from nightbid.config.settings import Settings
from nightbid.errors import WorkspaceError
from nightbid.night.attempts import StageRecord
from nightbid.night.record import RunRecord
from nightbid.night.stage import Stage
from nightbid.night.stages import NIGHT, upstream
from nightbid.storage.workspace import Workspace
from nightbid_airflow.approval import question
from nightbid_airflow.operators import StageOperator

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("tensorflow", "keras", "apache_beam", "great_expectations", "pandas", "pyarrow", "mlflow")


def bag() -> DagBag:
    return DagBag(str(ROOT / "dags"), bundle_path=ROOT / "dags", bundle_name="dags")


def the_dag(name: str = "nightly_small") -> DAG:
    dag: DAG = bag().dags[name]
    return dag


def test_every_shipped_pipeline_has_a_dag_that_loads() -> None:
    dag_bag = bag()
    assert dag_bag.import_errors == {}
    assert {f"nightly_{name}" for name in pipeline_names(Settings().pipelines)} <= set(dag_bag.dags)


def test_a_task_makes_only_its_own_dag(pipelines, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("small", "other", "not a name"):
        pipelines(name)
    for dag_id in ("nightly_small", "nightly_not-a-name", "score_other"):
        # Airflow sets this variable in the process of a task.
        monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", dag_id)
        made = {name for name in bag().dags if name.startswith(("nightly_", "score_"))}
        assert made == {dag_id}


def test_runs_are_one_at_a_time_without_catch_up_and_have_an_owner() -> None:
    for name, dag in bag().dags.items():
        if not name.startswith("nightly_"):
            continue
        assert dag.max_active_runs == 1, name
        assert dag.catchup is False, name
        assert dag.owner not in ("", "airflow"), f"{name}: set `owner:` in its YAML"
        assert "nightbid" in dag.tags, name


def test_every_stage_after_a_gate_waits_for_the_gate(pipelines) -> None:
    pipelines()
    dag = the_dag()
    for at, gate in enumerate(NIGHT):
        if not gate.is_gate:
            continue
        for later in NIGHT[at + 1 :]:
            above = dag.get_task(later.name).get_flat_relative_ids(upstream=True)
            assert gate.name in above, f"{later.name} does not wait for {gate.name}"


def test_a_gate_that_reads_one_of_two_trainings_waits_for_both() -> None:
    gate = Stage("gate_training", "", inputs=("train",), spec_keys=(), is_gate=True)
    at = [stage.name for stage in NIGHT].index("evaluate")
    night = [*NIGHT[:at], gate, *NIGHT[at:]]
    assert upstream(gate, night) == ("train", "train_baseline")
    assert upstream(NIGHT[at], night) == ("gate_training",)


def test_tasks_wait_for_their_inputs_and_trainings_run_in_parallel(pipelines) -> None:
    pipelines()
    dag = the_dag()
    extra = {"watch_cost", "report"}
    stages = [task.task_id for task in dag.tasks if task.task_id not in extra]
    assert stages == [stage.name for stage in NIGHT]
    for stage in NIGHT:
        above = dag.get_task(stage.name).get_flat_relative_ids(upstream=True)
        assert set(stage.inputs) <= above
    assert dag.get_task("train").upstream_task_ids == {"gate_features"}
    assert dag.get_task("train_baseline").upstream_task_ids == {"gate_features"}
    assert {task.task_id for task in dag.leaves} == {"report", "watch_cost"}
    assert dag.get_task("report").is_teardown, "it runs however the night ends"


def test_promotion_waits_for_approval_when_the_pipeline_requires_it(pipelines) -> None:
    pipelines(approval=True, approval_hours=1.5)
    dag = the_dag()
    assert dag.get_task("promote").upstream_task_ids == {"approve"}
    assert dag.get_task("approve").upstream_task_ids == {"gate_cost"}
    assert dag.get_task("approve").response_timeout.total_seconds() == 1.5 * 3600


def test_roles_reach_the_dag_and_an_unknown_role_breaks_only_its_pipeline(
    pipelines, monkeypatch
) -> None:
    monkeypatch.setenv("NIGHTBID_ROLES", '["ads-ctr"]')
    pipelines("good", access={"ads-ctr": "edit", "Viewer": "read"})
    pipelines("bad", access={"ads-crt": "edit"})
    dags = bag().dags
    given = dags["nightly_good"].access_control
    assert given["ads-ctr"]["DAGs"] == {"can_read", "can_edit"}
    assert given["Viewer"]["DAGs"] == {"can_read"}
    assert "access: no role 'ads-crt'" in dags["nightly_bad"].description


def test_sampled_rows_and_features_are_published_as_assets(pipelines) -> None:
    pipelines()
    dag = the_dag()
    assert [asset.uri for asset in dag.get_task("sample").outlets] == ["nightbid://rows/small"]
    assert [asset.uri for asset in dag.get_task("featurize").outlets] == [
        "nightbid://features/small"
    ]


def test_form_accepts_valid_values(pipelines) -> None:
    pipelines()
    form = {
        "date": "2026-01-08",
        "train_days": 3,
        "architecture": "dcn_v2",
        "budget_usd": 0.5,
        "overrides": ["train.learning_rate=0.002"],
    }
    params = the_dag().params
    params.update(form)
    assert params.validate() == form


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("date", "8 January"),
        ("train_days", 0),
        ("budget_usd", -1),
        ("budget_usd", "much"),
        ("overrides", ["train.learning_rate"]),
        ("overrides", "train.learning_rate=1"),
    ],
)
def test_form_rejects_invalid_values(pipelines, field: str, value: object) -> None:
    pipelines()
    params = the_dag().params
    with pytest.raises(ParamValidationError):
        params[field] = value


BROKEN = {
    "typo": (b"pipeline: typo\nshcedule: '0 2 * * *'\n", "did you mean 'schedule'?"),
    "torn": (b"pipeline: torn\nfeatures: [", "torn.yaml:"),
    "february": (b"pipeline: february\nstart_date: 2026-02-30\n", "day is out of range"),
    "latin": (b"pipeline: latin\ndescription: caf\xe9\n", "latin.yaml:2: byte 0xe9 is not UTF-8"),
    "copied": (None, "the file holds pipeline 'good'"),
    "bad cron": (b"- 1\n", "a mapping of keys, not list"),
}


def test_a_broken_yaml_breaks_only_its_own_dag(pipelines) -> None:
    folder = pipelines("good")
    for name, (content, _) in BROKEN.items():
        good = (folder / "good.yaml").read_bytes()
        (folder / f"{name}.yaml").write_bytes(good if content is None else content)
    (folder / "suites").mkdir()
    pipelines("suite")
    (folder / "suites" / "suite.yaml").write_bytes(b"bands: caf\xe9\n")
    dag_bag = bag()
    assert dag_bag.import_errors == {}, "an import error makes every DAG of the file stale"
    nights = {name: dag for name, dag in dag_bag.dags.items() if name.startswith("nightly_")}
    assert len(nights["nightly_good"].tasks) > len(NIGHT)
    assert set(nights) == {"nightly_good", "nightly_suite"} | {
        f"nightly_{name.replace(' ', '-')}" for name in BROKEN
    }
    expected = {name: message for name, (_, message) in BROKEN.items()}
    expected["suite"] = "suites/suite.yaml:1: byte 0xe9 is not UTF-8"
    for name, message in expected.items():
        dag = nights[f"nightly_{name.replace(' ', '-')}"]
        assert message in dag.description
        assert "\n" not in dag.description
        assert "broken" in dag.tags
        (task,) = dag.tasks
        with pytest.raises(AirflowFailException, match=re.escape(message)):
            task.execute({})


def test_dag_parsing_imports_no_heavy_libraries(pipelines) -> None:
    pipelines()
    program = f"""
import sys, json, runpy
sys.path.insert(0, {str(ROOT / "plugins")!r})
runpy.run_path({str(ROOT / "dags" / "nightly.py")!r})
print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_approval_question_shows_the_verdicts_and_links_to_the_report(pipelines, tmp_path) -> None:
    pipelines()
    spec = find_pipeline("small", tmp_path / "pipelines")
    run = RunRecord.start(Workspace(str(tmp_path)), spec, date(2026, 1, 8), run_id="by:hand+1")
    for stage, summary in (("evaluate", "better, AUC 0.71"), ("gate_model", "20 checks passed")):
        record = StageRecord(
            stage=stage, state="done", started=datetime.now(UTC), seconds=1, summary=summary,
            verdict="pass" if stage == "gate_model" else None,
        )  # fmt: skip
        run.record(record)
    text = question(run, "by:hand+1", 1.5)
    page = "/plugin/nightbid/nightbid/runs/small/by-hand-1"
    assert f"[Report of the night of 2026-01-08]({page})" in text
    assert "better, AUC 0.71" in text
    assert "gate_model: **pass**, 20 checks passed" in text
    assert "1.5 hours" in text


def test_unwritable_workspace_fails_with_a_one_line_error(pipelines, tmp_path, monkeypatch) -> None:
    pipelines()
    place = tmp_path / "a file"
    place.write_text("")
    monkeypatch.setenv("NIGHTBID_WORKSPACE", str(place))
    task = StageOperator(task_id="sample", stage="sample", pipeline="small")
    run = SimpleNamespace(run_id="manual__1", run_type="manual", triggering_user_name="dag_test")
    ti = SimpleNamespace(try_number=1, max_tries=2)
    with pytest.raises(
        WorkspaceError, match=r"a file.*: Not a directory → check the disk and its permissions"
    ) as error:
        task.execute({"dag_run": run, "ti": ti, "params": {"date": "2026-01-04"}})
    assert "\n" not in str(error.value)
