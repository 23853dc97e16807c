"""Featurization on Dataflow under faults: one job per attempt and no partial output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from emulator.dataflow import Dataflow, Plan
from emulator.dataflow_grpc import GrpcFace
from emulator.installation import until
from emulator.storage import Storage
from nightbid.config.cloud import Cloud
from nightbid.config.load import find_pipeline
from nightbid.config.pipeline import PipelineSpec
from nightbid.config.settings import Settings
from nightbid.cost.ledger import Ledger, price_entries, total
from nightbid.cost.money import exact
from nightbid.errors import BudgetExceeded, ConfigError, NightbidError, ServiceError, StageError
from nightbid.featurize.job import JobTarget
from nightbid.jobs.dataflow_meter import UNITS
from nightbid.jobs.follow import wait_for_final_cost
from nightbid.jobs.store import job_records
from nightbid.night.manifest import Manifest
from nightbid.night.record import RunRecord
from nightbid.night.stages import stage_named
from nightbid.runner import run_stage
from nightbid.storage.workspace import Workspace, fetch

PIPELINE = """
pipeline: small
source: {kind: simulator, rows_per_day: 1000, users: 200, ads: 200}
window: {train_days: 2}
features:
  ad_id: {min_count: 3}
  device_type: vocabulary
  user_ctr: {transform: target_rate, columns: [user_id]}
gates:
  overrides:
    - {gate: raw, check: "*", name: tests, reason: so few rows prove nothing, until: 2099-01-01}
"""
NIGHT_OF = date(2026, 1, 4)
JOBS = "/jobs"

pytestmark = pytest.mark.slow


class Night:
    """A run of the stages from sampling to featurization."""

    def __init__(self, root: str, folder: Path, spec: PipelineSpec) -> None:
        self.spec, self._folder = spec, folder
        self.run = RunRecord.start(Workspace(root), spec, NIGHT_OF)

    def stage(self, name: str) -> Manifest:
        stage = stage_named(name)
        number = self.run.next_attempt(name)
        outcome = run_stage(stage, self.spec, self.run, cache_folder=self._folder, attempt=number)
        return outcome.manifest


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten Beam's pauses before it sends a request again, which are seconds."""
    from apache_beam.utils import retry

    monkeypatch.setattr(retry.Clock, "sleep", lambda _, seconds: time.sleep(seconds / 20))


@pytest.fixture
def pipelines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "pipelines"
    folder.mkdir()
    (folder / "small.yaml").write_text(PIPELINE)
    monkeypatch.setenv("NIGHTBID_PIPELINES", str(folder))
    monkeypatch.setenv("NIGHTBID_TRACKING", "")
    return folder


@pytest.fixture
def night(emulated: str, dataflow: Dataflow, pipelines: Path, tmp_path: Path) -> Night:
    """Prepare a night in the bucket whose rows are sampled."""
    night = Night(emulated, tmp_path / "cache", find_pipeline("small", pipelines))
    night.stage("sample")
    return night


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Return the output of the same night on this machine alone."""
    folder = tmp_path_factory.mktemp("local")
    with pytest.MonkeyPatch.context() as plain:
        for name in [name for name in os.environ if name.startswith("NIGHTBID_")]:
            if name != "NIGHTBID_PRICES":
                plain.delenv(name)
        spec = PipelineSpec.model_validate(yaml.safe_load(PIPELINE))
        local = Night(str(folder / "workspace"), folder / "cache", spec)
        local.stage("sample")
        return local.stage("featurize")


def bill(dataflow: Dataflow, night: Night) -> Decimal:
    """Compute the cost from the jobs' own metrics."""
    cost = Decimal(0)
    for job in dataflow.jobs.values():
        amounts = {
            UNITS[name][0]: exact(value) / UNITS[name][1]
            for name, value in job.usage().items()
            if name in UNITS
        }
        entries = price_entries(
            amounts,
            pipeline="small",
            run_id=night.run.run_id,
            stage="featurize",
            attempt=1,
            started=night.run.head.started,
            service="dataflow_batch",
        )
        cost += total(entries).amount
    return cost


def entered(night: Night) -> Decimal:
    entries = Ledger(night.run.workspace).entries(pipeline="small", run_id=night.run.run_id)
    return total(entry for entry in entries if entry.service == "dataflow_batch").amount


def outputs(storage: Storage) -> list[str]:
    (bucket,) = storage.buckets.values()
    return [name for name in bucket if "/featurize/" in name and name.endswith("manifest.json")]


def test_dataflow_equals_a_local_run_and_the_job_is_labeled_and_priced(
    storage: Storage, dataflow: Dataflow, night: Night, expected: Manifest
) -> None:
    manifest = night.stage("featurize")
    assert (manifest.key, manifest.digest) == (expected.key, expected.digest)
    assert manifest.files == expected.files
    assert manifest.rows == expected.rows
    assert manifest.metrics["oov_rate"] == expected.metrics["oov_rate"]
    folder = fetch(night.run.workspace.stage_folder("small", "featurize", manifest.key))
    assert (folder / "fitted" / "features.json").exists()  # its digest is checked, too

    (job,) = dataflow.jobs.values()
    assert dict(job.proto.labels) == {
        "team": "ads",
        "nightbid_pipeline": "small",
        "nightbid_run": "small-2026-01-04",
        "nightbid_stage": "featurize",
    }
    (pool,) = job.proto.environment.worker_pools
    assert (pool.machine_type, pool.autoscaling_settings.max_num_workers) == ("n2-standard-4", 20)
    (job_record,) = job_records(night.run, "featurize")
    assert (job_record.name, job_record.job_id, job_record.state) == (
        job.name,
        job.proto.id,
        "closed",
    )
    wait_for_final_cost(night.run)
    assert entered(night) == bill(dataflow, night) > 0


def in_ci(faults: Iterable[str], *kept: str) -> list[Any]:
    """Parameters: every test run plays a few of them; the others belong to the matrix."""
    return [
        name if name in kept else pytest.param(name, marks=pytest.mark.matrix) for name in faults
    ]


RECOVERED = {
    "refused at first": (lambda d: d.fail("POST", JOBS, 503), Plan()),
    "answer lost": (lambda d: d.fail("POST", JOBS, 503, after=True), Plan()),
    "slow start": (lambda d: None, Plan(slow_start=1.5)),
    "worker lost": (lambda d: None, Plan(lose_worker=1)),
    "silent for a while": (lambda d: d.fail("GET", JOBS + "/", 503, times=3), Plan()),
    "log out of reach": (lambda d: d.fail("GET", "/messages", 403, times=3), Plan()),
    "late metrics": (lambda d: None, Plan(late_metrics=0.3)),
}


@pytest.mark.parametrize("name", in_ci(RECOVERED, "answer lost"))
def test_featurization_survives_a_service_fault_with_one_job(
    name: str, dataflow: Dataflow, night: Night, expected: Manifest
) -> None:
    disturb, plan = RECOVERED[name]
    dataflow.plans.append(plan)
    disturb(dataflow)
    assert night.stage("featurize").digest == expected.digest
    assert len(dataflow.jobs) == 1
    (job,) = dataflow.jobs.values()
    assert job.workers == 1 + plan.lose_worker
    wait_for_final_cost(night.run)
    assert entered(night) == bill(dataflow, night)


FAILED = {
    "quota": (lambda d: d.fail("POST", JOBS, 429), Plan(), ServiceError, "TooManyRequests", 0),
    "forbidden": (lambda d: d.fail("POST", JOBS, 403), Plan(), ConfigError, "roles", 0),
    "out of reach": (lambda d: d.fail("POST", JOBS, 503, 4), Plan(), ServiceError, "a rerun", 0),
    "preempted": (lambda d: None, Plan(preempt=True), StageError, "were preempted", 1),
    "forgotten": (lambda d: None, Plan(vanish=True), StageError, "ended as gone", 0),
}


@pytest.mark.parametrize("name", in_ci(FAILED, "forgotten"))
def test_a_failed_attempt_leaves_no_output_and_a_rerun_submits_a_new_job(
    name: str, storage: Storage, dataflow: Dataflow, night: Night, expected: Manifest
) -> None:
    disturb, plan, error, words, jobs = FAILED[name]
    dataflow.plans += [plan] if jobs or plan.vanish else []
    disturb(dataflow)
    with pytest.raises(error, match=words) as caught:
        night.stage("featurize")
    assert "\n" not in str(caught.value)
    assert outputs(storage) == []
    assert len(dataflow.jobs) == jobs

    assert night.stage("featurize").digest == expected.digest
    names = [job.name for job in dataflow.jobs.values()]
    assert len(names) == len(set(names)) == jobs + 1
    wait_for_final_cost(night.run)
    if not plan.vanish:
        assert entered(night) == bill(dataflow, night)


def test_a_job_over_its_budget_is_canceled_and_its_usage_is_recorded(
    storage: Storage, dataflow: Dataflow, night: Night
) -> None:
    budget = night.spec.budget.model_copy(update={"run_usd": Decimal("0.0001")})
    night.spec = night.spec.model_copy(update={"budget": budget})
    night.run = RunRecord.start(night.run.workspace, night.spec, NIGHT_OF)
    dataflow.plans.append(Plan(hold=True))
    with pytest.raises(BudgetExceeded, match=r"over its limit of 0\.0001 USD"):
        night.stage("featurize")
    (job,) = dataflow.jobs.values()
    assert job.state == "CANCELLED"
    assert outputs(storage) == []
    wait_for_final_cost(night.run)
    assert entered(night) == bill(dataflow, night)


@pytest.mark.matrix
def test_a_job_that_another_client_drains_fails_without_output(
    storage: Storage, dataflow: Dataflow, night: Night
) -> None:
    dataflow.plans.append(Plan(hold=True))

    def drain() -> None:
        until(lambda: any(job.state == "RUNNING" for job in dataflow.jobs.values()))
        (job,) = dataflow.jobs
        where = f"{dataflow.endpoint}/v1b3/projects/p/locations/us-central1/jobs/{job}"
        body = json.dumps({"requestedState": "JOB_STATE_DRAINED"}).encode()
        urllib.request.urlopen(urllib.request.Request(where, body, method="PUT"))

    Thread(target=drain, daemon=True).start()
    with pytest.raises(StageError, match="ended as cancelled"):
        night.stage("featurize")
    assert outputs(storage) == []


def shell() -> subprocess.Popen[str]:
    command = ["run", "small", "--date", NIGHT_OF.isoformat(), "--until", "featurize"]
    return subprocess.Popen(
        [sys.executable, "-m", "nightbid", *command],
        # Restore what a terminal does: a test run in the background ignores interrupts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.mark.matrix
def test_a_rerun_resumes_the_job_of_a_killed_shell(
    dataflow: Dataflow, night: Night, expected: Manifest
) -> None:
    plan = Plan(hold=True)
    dataflow.plans.append(plan)
    first = shell()
    until(lambda: dataflow.jobs)
    first.kill()
    first.wait()
    plan.hold = False
    second = shell()
    text, _ = second.communicate(timeout=300)
    assert second.returncode == 0, text
    assert len(dataflow.jobs) == 1
    record = night.run.stage("featurize")
    assert record is not None
    manifest_file = night.run.workspace.at(record.uri) / "manifest.json"
    assert Manifest.model_validate_json(manifest_file.read_text()).digest == expected.digest
    assert entered(night) == bill(dataflow, night)


@pytest.mark.matrix
def test_an_interrupt_in_the_shell_cancels_the_job(dataflow: Dataflow, night: Night) -> None:
    dataflow.plans.append(Plan(hold=True))
    process = shell()
    until(lambda: any(job.state == "RUNNING" for job in dataflow.jobs.values()))
    until(lambda: any(record.job_id for record in job_records(night.run, "featurize")))
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    (job,) = dataflow.jobs.values()
    assert job.state == "CANCELLED"
    assert [record.state for record in job_records(night.run, "featurize")] == ["closed"]


@pytest.fixture
def grpc_face(
    preloaded_python: None, dataflow: Dataflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[GrpcFace]:
    """Serve the same service by gRPC over TLS, as Google's clients use it in profile `gcp`."""
    face = GrpcFace(dataflow, tmp_path).start()
    monkeypatch.setenv("NIGHTBID_CLOUD__DATAFLOW__ENDPOINT", face.endpoint)
    monkeypatch.setenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", str(face.roots))
    yield face
    face.stop()


OVER_GRPC = {
    "undisturbed": (lambda d: None, Plan(), ""),
    "answer lost": (lambda d: d.fail("POST", JOBS, 503, after=True), Plan(), ""),
    "worker lost": (lambda d: None, Plan(lose_worker=1), ""),
    "silent for a while": (lambda d: d.fail("GET", JOBS + "/", 503, times=3), Plan(), ""),
    "log out of reach": (lambda d: d.fail("GET", "/messages", 403, times=3), Plan(), ""),
    "late metrics": (lambda d: None, Plan(late_metrics=0.3), ""),
    "quota": (lambda d: d.fail("POST", JOBS, 429), Plan(), "request more quota"),
    "forbidden": (lambda d: d.fail("POST", JOBS, 403), Plan(), "grant the account its roles"),
    "preempted": (lambda d: None, Plan(preempt=True), "were preempted"),
}


@pytest.mark.parametrize("name", in_ci(OVER_GRPC, "answer lost"))
def test_featurization_over_grpc_survives_or_reports_service_faults(
    name: str,
    storage: Storage,
    dataflow: Dataflow,
    grpc_face: GrpcFace,
    night: Night,
    expected: Manifest,
) -> None:
    disturb, plan, words = OVER_GRPC[name]
    dataflow.plans.append(plan)
    disturb(dataflow)
    # A separate process, because gRPC reads the trusted certificates only once.
    process = shell()
    text, _ = process.communicate(timeout=300)
    assert len(dataflow.requests) == len(grpc_face.calls), "nothing went by REST"
    assert "Traceback" not in text
    if words:
        assert process.returncode > 1, text
        assert words in text
        assert outputs(storage) == []
        assert len(dataflow.jobs) == bool(plan.preempt)
        return
    assert process.returncode == 0, text
    assert len(dataflow.jobs) == 1
    called = {"CreateJob", "ListJobs", "GetJob", "ListJobMessages", "GetJobMetrics"}
    assert set(grpc_face.calls) == called
    record = night.run.stage("featurize")
    assert record is not None
    manifest_file = night.run.workspace.at(record.uri) / "manifest.json"
    assert Manifest.model_validate_json(manifest_file.read_text()).digest == expected.digest
    assert entered(night) == bill(dataflow, night) > 0


@pytest.mark.matrix
def test_an_interrupt_cancels_the_job_over_grpc(
    dataflow: Dataflow, grpc_face: GrpcFace, night: Night
) -> None:
    dataflow.plans.append(Plan(hold=True))
    process = shell()
    until(lambda: any(record.job_id for record in job_records(night.run, "featurize")))
    until(lambda: "GetJob" in grpc_face.calls)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    (job,) = dataflow.jobs.values()
    assert job.state == "CANCELLED"
    assert "UpdateJob" in grpc_face.calls


def test_a_worker_whose_code_digest_differs_fails(emulated: str) -> None:
    cloud = Settings().cloud
    assert isinstance(cloud, Cloud)
    with pytest.raises(StageError, match=r"the worker's code has digest .*rebuild and push"):
        JobTarget(cloud, "gs://b/x", "0" * 32, ()).check()


def test_invalid_features_are_refused_before_a_job_is_submitted(
    dataflow: Dataflow, night: Night
) -> None:
    features = {**night.spec.features}
    features["color"] = features["device_type"]
    night.spec = night.spec.model_copy(update={"features": features})
    with pytest.raises(NightbidError, match="color"):
        night.stage("featurize")
    assert not dataflow.jobs
