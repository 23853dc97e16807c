"""A whole Airflow is killed and restarted while its cloud jobs run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from airflows import embedded
from emulator.dataflow import Dataflow, Plan
from emulator.installation import (
    dataflow,
    emulated,
    kill,
    service,
    storage,
    training,
    until,
)
from emulator.training import Training
from nightbid.config.settings import Settings
from nightbid.cost.ledger import Ledger, total
from nightbid.jobs.store import job_records
from nightbid.night.champion import ChampionPointer
from nightbid.night.record import RunRecord
from nightbid.storage.workspace import Workspace

__all__ = ["dataflow", "emulated", "service", "storage", "training"]

DAG, RUN = "nightly_small", "restarted"


@pytest.mark.slow
@pytest.mark.matrix
@pytest.mark.timeout(1500)
def test_airflow_resumes_its_cloud_jobs_after_being_killed_twice(
    pipelines: Callable[..., Path],
    emulated: str,
    dataflow: Dataflow,
    training: Training,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from nightbid_airflow.embedded.client import ENDED
    from nightbid_airflow.embedded.home import Home

    # The baseline's own architecture: neutral on any number of rows, and neutral is promoted.
    pipelines(model={"architecture": "logistic_regression"})
    monkeypatch.delenv("NIGHTBID_WORKSPACE")
    # Seconds until Airflow notices a lost task; the default is minutes.
    monkeypatch.setenv("AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT", "20")
    home, settings = Home(tmp_path / "airflow"), Settings()
    plan = Plan(hold=True)
    dataflow.plans.append(plan)

    with embedded(home, settings) as airflow:
        until(lambda: airflow.client.has_dag(DAG))
        airflow.client.unpause(DAG)
        airflow.client.trigger(DAG, RUN, {"date": "2026-01-04"})
        # The task has only just received the id of its job.
        until(lambda: dataflow.jobs, 300)
        kill(airflow)
    with embedded(home, settings) as airflow:

        def states() -> dict[str, str]:
            return {task.name: task.state for task in airflow.client.tasks(DAG, RUN)}

        until(lambda: states()["featurize"] == "deferred", 300)
        plan.hold = False
        until(lambda: training.jobs, 300)
        kill(airflow)
    with embedded(home, settings) as airflow:
        until(lambda: airflow.client.run_state(DAG, RUN) in ENDED, 600)
        assert airflow.client.run_state(DAG, RUN) == "success", states()

    workspace = Workspace(emulated)
    run = RunRecord.load(workspace, "small", RUN)
    (featurized,) = dataflow.jobs.values()
    trained = [job.job.labels["nightbid_stage"] for job in training.jobs.values()]
    assert sorted(trained) == ["train", "train_baseline"]
    assert {order.state for order in job_records(run)} == {"closed"}
    champion = ChampionPointer(workspace, "small").current()
    assert champion is not None
    assert champion.run_id == RUN
    entries = Ledger(workspace).entries(pipeline="small", run_id=RUN)
    assert total(entry for entry in entries if entry.service == "dataflow_batch").amount > 0
    assert {entry.job for entry in entries if entry.service == "dataflow_batch"} == {
        featurized.proto.id
    }
