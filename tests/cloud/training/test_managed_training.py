"""Training as a custom job: one job despite faults, an end on command, and entered costs."""

from __future__ import annotations

import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from emulator.installation import until, without_cloud
from emulator.training import Training
from nightbid.cost.ledger import Ledger, total
from nightbid.errors import BudgetExceeded, ConfigError, NightbidError, ServiceError, StageError
from nightbid.jobs.follow import wait_for_final_cost
from nightbid.jobs.job import DeferredJob
from nightbid.jobs.store import cancel, job_records, open_job
from nightbid.night.record import RunRecord
from nightbid.night.stages import NIGHT
from nightbid.night.task import StageOutput
from nightbid.runner import begin_stage, run_stage
from nightbid.storage.workspace import Workspace

STAGES = {stage.name: stage for stage in NIGHT}
TRAIN = STAGES["train"]
Trained = Any
"""Type of the fixture `trained`."""


def begin(made: Trained) -> StageOutput | DeferredJob:
    return begin_stage(TRAIN, made.spec, made.run, cache_folder=made.cache)


def spent(made: Trained) -> Decimal:
    entries = Ledger(made.run.workspace).entries(pipeline="small", run_id=made.run.run_id)
    return total(entry for entry in entries if entry.service == "vertex_training").amount


def hours(service: Training) -> float:
    """Compute machine hours from the service's times."""
    return (
        sum(
            (running.job.end_time - running.job.start_time).total_seconds()
            * sum(pool.replica_count for pool in running.job.job_spec.worker_pool_specs)
            for running in service.jobs.values()
        )
        / 3600
    )


def paid_hours(made: Trained) -> float:
    """Return the machine hours in the ledger."""
    entries = Ledger(made.run.workspace).entries(pipeline="small", run_id=made.run.run_id)
    return float(sum(entry.quantity for entry in entries if entry.resource == "n1-standard-4_hour"))


def local(made: Trained, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Train locally on the same rows and return the model's digest."""
    with monkeypatch.context() as patch:
        for name in set(os.environ) - set(without_cloud()):
            patch.delenv(name)
        run = RunRecord.start(Workspace(folder), made.spec, made.run.date)
        for name in ("sample", "featurize", "train"):
            result = run_stage(STAGES[name], made.spec, run, cache_folder=made.cache)
    return result.manifest.digest


SURVIVED = {
    "slow start": lambda service: setattr(service, "queued_seconds", 3.0),
    "its end told late": lambda service: setattr(service, "late_end_seconds", 2.0),
    "one machine lost": lambda service: service.lose("validation log loss"),
    "log out of reach": lambda service: service.fail(
        "ListLogEntries", grpc.StatusCode.PERMISSION_DENIED, times=3
    ),
}


@pytest.mark.matrix
@pytest.mark.parametrize("name", SURVIVED)
def test_a_training_job_survives_a_service_fault_without_extra_cost(
    name: str, trained, service: Training, tmp_path, monkeypatch
) -> None:
    prepared = trained()
    SURVIVED[name](service)
    result = run_stage(TRAIN, prepared.spec, prepared.run, cache_folder=prepared.cache)
    (job,) = service.jobs.values()
    assert len(job.starts) == 1 + (name == "one machine lost")
    assert result.manifest.digest == local(prepared, tmp_path / "here", monkeypatch)
    wait_for_final_cost(prepared.run)
    # Waiting for machines costs nothing, and a late report of the end adds no cost.
    assert paid_hours(prepared) == pytest.approx(hours(service), rel=1e-6)


@pytest.mark.matrix
def test_a_rerun_after_a_preempted_job_resumes_from_its_checkpoint(
    trained, service: Training, tmp_path, monkeypatch
) -> None:
    service.restarts = 1
    prepared = trained()
    # Both starts are lost at their first reported epoch, wherever the second one resumes.
    service.lose("validation log loss", times=2, replica=None)
    with pytest.raises(StageError, match=r"STOCKOUT.*a rerun submits a new job"):
        run_stage(TRAIN, prepared.spec, prepared.run, cache_folder=prepared.cache)
    result = run_stage(TRAIN, prepared.spec, prepared.run, cache_folder=prepared.cache, attempt=2)
    first, second = service.jobs.values()
    assert (len(first.starts), len(second.starts)) == (2, 1)
    assert result.manifest.metrics["resumed_at"] > 0
    assert result.manifest.digest == local(prepared, tmp_path / "here", monkeypatch)
    assert not list(prepared.run.workspace.root.glob("checkpoints/**/*.npz"))
    wait_for_final_cost(prepared.run)
    assert paid_hours(prepared) == pytest.approx(hours(service), rel=1e-6)


@pytest.mark.matrix
def test_a_rerun_submits_a_new_job_when_the_service_lost_the_first(
    trained, service: Training, tmp_path, monkeypatch
) -> None:
    prepared = trained()
    service.forget("epoch 1:")
    with pytest.raises(StageError, match="ended as gone") as caught:
        run_stage(TRAIN, prepared.spec, prepared.run, cache_folder=prepared.cache)
    assert "\n" not in str(caught.value)
    left = prepared.run.stage("train")
    assert left is None or not left.uri
    result = run_stage(TRAIN, prepared.spec, prepared.run, cache_folder=prepared.cache, attempt=2)
    assert [name for name in service.calls if name == "CreateCustomJob"] == ["CreateCustomJob"] * 2
    assert len(service.jobs) == 1
    assert result.manifest.digest == local(prepared, tmp_path / "here", monkeypatch)
    wait_for_final_cost(prepared.run)
    assert paid_hours(prepared) >= hours(service) * (1 - 1e-6) > 0


@pytest.mark.matrix
def test_training_with_two_workers_survives_the_loss_of_one(trained, service: Training) -> None:
    prepared = trained(workers=2, batch_size=1000)
    service.lose("epoch 1:", replica=1)
    result = run_stage(TRAIN, prepared.spec, prepared.run, cache_folder=prepared.cache)
    (job,) = service.jobs.values()
    assert [pool.replica_count for pool in job.job.job_spec.worker_pool_specs] == [1, 1]
    assert len(job.starts) == 2
    assert result.manifest.metrics["workers"] == 2
    assert {line.replica for line in job.lines} >= {"workerpool0-0", "workerpool1-0"}
    wait_for_final_cost(prepared.run)
    assert paid_hours(prepared) == pytest.approx(hours(service), rel=1e-6)


def shell(made: Trained, folder: Path, *until: str) -> subprocess.Popen[str]:
    """Start the night of a run from the shell, as a user does."""
    folder.mkdir(exist_ok=True)
    tree = made.spec.model_dump(mode="json", exclude_unset=True)
    tree["gates"] = {
        "overrides": [
            {
                "gate": gate,
                "check": "*",
                "name": "tests",
                "reason": "few rows",
                "until": "2099-01-01",
            }
            for gate in ("raw", "features", "model", "serving")
        ]
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(tree))
    command = [sys.executable, "-m", "nightbid", "run", "small", "--date", str(made.run.date)]
    return subprocess.Popen(
        [*command, "--run-id", f"{made.run.run_id}-by-hand", *until],
        env={**os.environ, "NIGHTBID_PIPELINES": str(folder), "COLUMNS": "300"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.mark.matrix
def test_a_killed_night_resumes_its_training_job(trained, service: Training, tmp_path) -> None:
    prepared = trained()
    night = shell(prepared, tmp_path / "pipelines", "--until", "train_baseline")
    until(
        lambda: (
            night.poll() is not None or any("epoch 1:" in job.log for job in service.jobs.values())
        ),
        300,
    )
    assert night.poll() is None, night.communicate()[0]
    night.kill()
    night.wait()
    again = shell(prepared, tmp_path / "pipelines", "--until", "train_baseline")
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0, output
    stages = [job.job.labels["nightbid_stage"] for job in service.jobs.values()]
    assert stages == ["train", "train_baseline"]


@pytest.mark.matrix
def test_a_night_promotes_nothing_when_its_machines_are_lost_for_good(
    trained, service: Training, tmp_path
) -> None:
    service.restarts = 0
    prepared = trained()
    service.lose("epoch 1:", times=9, replica=None)
    night = shell(prepared, tmp_path / "pipelines")
    output, _ = night.communicate(timeout=300)
    assert night.returncode > 1, output
    assert "STOCKOUT" in output
    assert "Traceback" not in output
    (job,) = service.jobs.values()
    assert job.job.labels["nightbid_stage"] == "train"
    root = prepared.run.workspace.root
    run = RunRecord.load(prepared.run.workspace, "small", f"{prepared.run.run_id}-by-hand")
    assert not list(root.glob("champion/small/**/*.json"))
    assert not list((root / "stages/small/train" / open_key(run)).glob("**/*"))
    assert "STOCKOUT" in (run.folder / "report.html").read_text()


def open_key(run: RunRecord) -> str:
    """Return the key of the output of the run's training."""
    (job_record,) = job_records(run, "train")
    assert job_record.state == "closed"
    return job_record.key


@pytest.mark.parametrize("after", [False, True], ids=["refused", "answer lost"])
def test_a_training_job_is_submitted_once_when_the_submission_fails(
    trained, service: Training, after: bool
) -> None:
    service.queued_seconds = 3600
    prepared = trained()
    service.fail("CreateCustomJob", grpc.StatusCode.UNAVAILABLE, after=after)
    away = begin(prepared)
    assert isinstance(away, DeferredJob)
    again = begin(prepared)
    assert isinstance(again, DeferredJob)
    assert again.job_record.job_id == away.job_record.job_id
    assert len(service.jobs) == 1
    cancel(prepared.run, away.job_record, away.service)


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, ServiceError, "quota"),
        (grpc.StatusCode.PERMISSION_DENIED, ConfigError, "roles"),
        (grpc.StatusCode.INVALID_ARGUMENT, ConfigError, "cloud.training"),
        (grpc.StatusCode.INTERNAL, ServiceError, "rerun"),
    ],
)
def test_a_refused_job_fails_in_one_line_and_leaves_no_open_job(
    trained, service: Training, code: grpc.StatusCode, kind: type[NightbidError], said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    prepared = trained()
    monkeypatch.setenv("NIGHTBID_CLOUD__TRAINING__PATIENCE_SECONDS", "0")
    service.fail("CreateCustomJob", code, times=99)
    with pytest.raises(kind, match=said) as caught:
        begin(prepared)
    assert "\n" not in str(caught.value)
    assert not service.jobs
    assert open_job(prepared.run, "train", "") is None
    assert prepared.run.stage("train").state == "failed"


def test_a_training_job_is_canceled_by_a_user_or_its_budget(trained, service: Training) -> None:
    # Usage is recorded up to a margin for differences between the clocks, so this one is known
    # sooner.
    service.clock_behind_seconds = 9
    prepared = trained(epochs=500, patience=500)
    away = begin(prepared)
    assert isinstance(away, DeferredJob)
    (job,) = service.jobs.values()
    until(lambda: bool(job.processes))
    cancel(prepared.run, away.job_record, away.service)
    until(lambda: bool(job.job.end_time))
    assert all(process.poll() is not None for process in job.processes)

    poor = trained(epochs=500, patience=500, budget={"stage_usd": {"train": "0.00003"}})
    with pytest.raises(BudgetExceeded, match="stage train"):
        run_stage(TRAIN, poor.spec, poor.run, cache_folder=poor.cache)
    assert [job.job.state.name for job in service.jobs.values()] == ["JOB_STATE_CANCELLED"] * 2
    wait_for_final_cost(poor.run)
    assert spent(poor) > Decimal("0.00003")


def test_polling_and_canceling_survive_a_temporary_outage(trained, service: Training) -> None:
    service.queued_seconds = 3600
    prepared = trained()
    away = begin(prepared)
    assert isinstance(away, DeferredJob)
    service.fail("GetCustomJob", grpc.StatusCode.UNAVAILABLE, times=3)
    assert away.service.look(away.job_record.job_id).state == "waiting"
    service.fail("CancelCustomJob", grpc.StatusCode.INTERNAL)
    cancel(prepared.run, away.job_record, away.service)
    until(lambda: away.service.look(away.job_record.job_id).state == "cancelled")


def test_an_image_with_other_code_than_the_submitter_is_rejected(
    trained, service: Training
) -> None:
    from nightbid.night.key import library_versions
    from nightbid.training.job import Fit
    from nightbid.training.managed import TrainingOrder, check_image

    spec = trained().spec
    fit = Fit(model=spec.model, train=spec.train, label=spec.label, seed=0)
    job_record = TrainingOrder(
        **fit.model_dump(), stage="train", featurized="", output="", checkpoints="",
        code_digest="other", versions={"numpy": library_versions()["numpy"]},
    )  # fmt: skip
    with pytest.raises(
        ConfigError,
        match=r"code that differs from the code that submitted the job.*build the image",
    ):
        check_image(job_record)
