"""Airflow runs the sweep DAG: a mapped task group in which one trial fails."""

from __future__ import annotations

from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.exceptions import ParamValidationError
from nightbid.config.settings import Settings
from nightbid.sweep.study import Sweep

DAGS = Path(__file__).resolve().parents[2] / "dags"


def the_dag():
    bag = DagBag(str(DAGS), bundle_path=DAGS, bundle_name="dags-folder")
    assert not bag.import_errors
    return bag.dags["sweep"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("pipeline", "nope"), ("set", ["train.lr"]), ("trials", 0), ("metric", "x")],
)
def test_sweep_form_rejects_invalid_values(pipelines, field, value) -> None:
    pipelines()
    params = the_dag().params
    with pytest.raises(ParamValidationError):
        params[field] = value


@pytest.mark.slow
@pytest.mark.usefixtures("airflow_database")
def test_a_sweep_ranks_the_remaining_trials_when_one_fails(pipelines) -> None:
    pipelines()
    run = the_dag().test(
        logical_date=None,
        run_conf={
            "pipeline": "small",
            "date": "2026-01-04",
            "set": ["model.architecture=logistic_regression,nope", "train.lr=0.001"],
            "trials": 2,
            "name": "first",
        },
    )
    assert run.state == "success"
    states = {(task.task_id, task.map_index): task.state for task in run.get_task_instances()}
    assert sorted(states[("trial.train", at)] for at in (0, 1)) == ["failed", "success"]
    assert states[("conclude", -1)] == "success"
    sweep = Sweep.load("small", "first", Settings())
    (winner,) = sweep.ranked()
    assert winner.overrides[-1] == "model.architecture=logistic_regression"
    assert (sweep.folder / "sweep.html").exists()
