"""A night in Airflow in the profile `gcp-emulated`: jobs sample, featurize and train."""

from __future__ import annotations

import json
import os
import sqlite3
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from airflows import run_dag
from emulator.dataflow import Dataflow, Plan
from emulator.installation import dataflow, emulated, service, storage, training
from emulator.storage import Storage
from emulator.training import Training
from nightbid.config.sources import SimulatorSource
from nightbid.cost.ledger import Ledger, total
from nightbid.data.simulator.source import SimulatorLogs
from nightbid.data.write import write_day
from nightbid.jobs.store import job_records
from nightbid.night.champion import ChampionPointer
from nightbid.night.manifest import Manifest
from nightbid.night.record import RunRecord, runs_of
from nightbid.night.stages import NIGHT
from nightbid.storage import gcs
from nightbid.storage.workspace import Workspace
from nights import SMALL, two_nights
from upath import UPath

__all__ = ["dataflow", "emulated", "service", "storage", "training", "two_nights"]

NIGHT_OF = "2026-01-04"
MEASURED = {"load_test", "gate_serving", "gate_cost", "promote"}
"""Their output depends on times and costs, so it differs between runs."""
PLANTED = {
    "NIGHTBID_STOP_WEBHOOK": "http://127.0.0.1:9/hook/planted-hook-5fb1",
    "AIRFLOW_CONN_WAREHOUSE": "postgresql://ads:planted-password-77c2@db/ads",
    "AWS_SECRET_ACCESS_KEY": "planted-access-0be3",
    "NIGHTBID_API_TOKEN": "planted-token-e6a4",
}
"""Secrets of the submitter, which no job, record, log or page may contain."""

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("airflow_database")]


def run_night() -> dict[str, str | None]:
    return run_dag("nightly_small", date=NIGHT_OF)


def made(run: RunRecord) -> dict[str, tuple[str, str]]:
    """Return the address and the digest of each stage's output."""
    by_stage = {}
    for record in run.records():
        text = (run.workspace.at(record.uri) / "manifest.json").read_text()
        by_stage[record.stage] = (record.uri, Manifest.model_validate_json(text).digest)
    return by_stage


def test_a_cloud_night_equals_a_local_night_and_leaks_no_secret(
    preloaded_python: None,
    pipelines: Any,
    storage: Storage,
    emulated: str,
    dataflow: Dataflow,
    training: Training,
    two_nights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    # A plain process ran the first of the two nights locally, with another hash seed.
    pipelines(**SMALL)
    key = tmp_path / "key.json"
    key.write_text(json.dumps({"type": "service_account", "private_key": "planted-key-91d0"}))
    for name, value in {**PLANTED, "GOOGLE_APPLICATION_CREDENTIALS": str(key)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NIGHTBID_WORKSPACE")

    states = run_night()
    assert states.pop("watch_cost") == "skipped", "it would wait for itself, without a triggerer"
    assert set(states.values()) == {"success"}, states
    (run,) = runs_of(Workspace(emulated), "small")
    (featurized,) = dataflow.jobs.values()
    trained = list(training.jobs.values())
    ids = {job.job.labels["nightbid_stage"]: job.number for job in trained}
    assert (len(trained), set(ids)) == (2, {"train", "train_baseline"})
    placed = {
        (job_record.stage, job_record.job_id, job_record.state) for job_record in job_records(run)
    }
    ids["featurize"] = featurized.proto.id
    assert placed == {(stage, job, "closed") for stage, job in ids.items()}

    output = caplog.text + "".join(capfd.readouterr())
    assert "Worker pool stopped." in output, "the messages of a job are in the task's log"
    assert "epoch 1: validation log loss" in output
    texts = {
        name: thing.data for bucket in storage.buckets.values() for name, thing in bucket.items()
    }
    texts |= airflow_files()
    for page in (
        f"{dataflow.endpoint}/jobs/{featurized.proto.id}",
        *(f"{training.endpoint}/customJobs/{job.number}" for job in trained),
    ):
        assert page in output
        assert page.encode() in texts["airflow.db"], "the task's link leads to the job's page"
    services = {entry.service for entry in Ledger(run.workspace).entries(pipeline="small")}
    assert {"dataflow_batch", "vertex_training"} <= services

    texts["log"] = output.encode()
    texts["featurizing job"] = type(featurized.proto).to_json(featurized.proto).encode()
    texts["its messages"] = "".join(
        message.message_text for message in featurized.messages
    ).encode()
    for job in trained:
        texts[job.number] = f"{job.job}\n{job.log}".encode()
    assert sum(name.startswith("nightbid/stages/") for name in texts) > 30
    assert [name for name, data in texts.items() if b"planted-" in data] == []

    local = RunRecord.load(Workspace(str(two_nights / "workspace")), "small", f"small-{NIGHT_OF}")
    there, here = made(run), made(local)
    assert set(there) == set(here) == {stage.name for stage in NIGHT}
    assert {name: there[name] for name in set(there) - MEASURED} == {
        name: here[name] for name in set(here) - MEASURED
    }
    champion = ChampionPointer(run.workspace, "small").current()
    assert champion is not None
    first = ChampionPointer(local.workspace, "small").history()[0]
    assert champion.bundle_uri == first.bundle_uri == here["export"][0]


@pytest.mark.matrix
def test_a_job_over_its_budget_is_canceled_and_not_retried(
    pipelines: Any,
    emulated: str,
    dataflow: Dataflow,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    # The limit exceeds the cost of the submission; nothing else ends the job.
    pipelines(budget={"stage_usd": {"featurize": "0.002"}})
    monkeypatch.delenv("NIGHTBID_WORKSPACE")
    dataflow.plans.append(Plan(hold=True))
    states = run_night()
    output = caplog.text + "".join(capfd.readouterr())
    assert states["featurize"] == states["run"] == "failed", states
    assert states["promote"] != "success"
    assert "over its limit of 0.002 USD" in output
    (job,) = dataflow.jobs.values()
    assert job.state == "CANCELLED"
    (run,) = runs_of(Workspace(emulated), "small")
    assert [job_record.state for job_record in job_records(run)] == ["closed"]
    assert ChampionPointer(run.workspace, "small").current() is None
    entries = Ledger(run.workspace).entries(pipeline="small", stage="featurize")
    assert total(entries).amount > Decimal("0.002")
    assert "featurize" in (run.folder / "report.html").read_text()


def test_sampling_is_deferred_and_is_canceled_only_over_its_budget(
    pipelines: Any,
    emulated: str,
    dataflow: Dataflow,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("NIGHTBID_WORKSPACE")
    night = date.fromisoformat(NIGHT_OF)
    logs = SimulatorLogs(SimulatorSource(rows_per_day=1500, users=200, ads=50))
    bucket = f"gs://{emulated.removeprefix('gs://').partition('/')[0]}/logs"
    for day in (night - timedelta(days=back) for back in range(4)):
        write_day(logs.batches(day), tmp_path / "logs", day)
    for path in (tmp_path / "logs").rglob("*.parquet"):
        gcs.write(UPath(bucket) / path.relative_to(tmp_path / "logs").as_posix(), path.read_bytes())
    changes: dict[str, Any] = {
        "source": {"kind": "parquet", "folder": bucket},
        "columns": {},
        "features": {"device_type": "vocabulary"},
        # The night ends at its raw gate.
        "gates": {"raw": {"rows": {"stop": [1_000_000, None]}}},
    }
    # The limit exceeds the cost of the submission. The job reaches it within seconds.
    pipelines(**changes, budget={"stage_usd": {"sample": "0.0005"}})
    dataflow.plans.append(Plan(hold=True))
    states = run_night()
    output = caplog.text + "".join(capfd.readouterr())
    assert states["sample"] == states["run"] == "failed", states
    assert "running trigger in line" in output, "the task was deferred"
    assert "over its limit of 0.0005 USD" in output
    (run,) = runs_of(Workspace(emulated), "small")
    assert [job_record.state for job_record in job_records(run)] == ["closed"]

    pipelines(**changes, budget={"stage_usd": {"sample": "1"}})
    states = run_night()
    assert (states["sample"], states["gate_raw"]) == ("success", "failed"), states
    assert [job.state for job in dataflow.jobs.values()] == ["CANCELLED", "DONE"]
    labels = [job.proto.labels["nightbid_stage"] for job in dataflow.jobs.values()]
    assert labels == ["sample", "sample"]
    for record in runs_of(Workspace(emulated), "small"):
        paid = Ledger(record.workspace).entries(pipeline="small", stage="sample")
        assert "dataflow_batch" in {entry.service for entry in paid}
    assert total(paid).amount > Decimal("0.0005")


def airflow_files() -> dict[str, bytes]:
    """Read Airflow's database (XComs, rendered templates, serialized DAGs) and logs."""
    address = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].removeprefix("sqlite:///")
    with sqlite3.connect(address) as database:
        dump = "\n".join(database.iterdump()).encode()
    logs = Path(os.environ["AIRFLOW__LOGGING__BASE_LOG_FOLDER"])
    return {"airflow.db": dump} | {
        str(path): path.read_bytes() for path in logs.rglob("*") if path.is_file()
    }
