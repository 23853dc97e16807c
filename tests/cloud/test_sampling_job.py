"""Sampling on Dataflow: workers read units of the logs' objects and match a local run."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
import yaml
from emulator.dataflow import Dataflow, Plan
from emulator.storage import Storage
from nightbid.config.pipeline import PipelineSpec
from nightbid.cost.ledger import Ledger, total
from nightbid.data import units
from nightbid.jobs.follow import wait_for_final_cost
from nightbid.night.manifest import Manifest
from nightbid.night.record import RunRecord
from nightbid.night.stages import stage_named
from nightbid.runner import run_stage
from nightbid.storage import gcs
from nightbid.storage.workspace import Workspace
from upath import UPath

NIGHT_OF = date(2026, 1, 4)

LOGS = """
pipeline: small
source: {kind: KIND, folder: FOLDER}
window: {train_days: 1}
features: {ad_id: {min_count: 3}}
"""


class Night:
    """A run up to sampling."""

    def __init__(self, root: str, folder: Path, spec: PipelineSpec) -> None:
        self.spec, self._folder = spec, folder
        self.run = RunRecord.start(Workspace(root), spec, NIGHT_OF)

    def sample(self) -> Manifest:
        stage, number = stage_named("sample"), self.run.next_attempt("sample")
        outcome = run_stage(stage, self.spec, self.run, cache_folder=self._folder, attempt=number)
        return outcome.manifest


def write_logs(folder: Path, kind: str) -> None:
    """Write three days of two files; a file exceeds a unit, and some keys are in both files."""
    for day in (2, 3, 4):
        start = int(datetime(2026, 1, day, tzinfo=UTC).timestamp())
        for file in range(2):
            numbers = range(file * 280, file * 280 + 300)
            table = pa.table(
                {
                    "impression_id": [f"{day}-{n}" for n in numbers],
                    "time": [start + n for n in numbers],
                    "user_id": [None if n % 97 == 5 else f"u{n % 17}" for n in numbers],
                    "ad_id": [f"a{n % 7}" for n in numbers],
                    "click": [int(n * 7 % 5 == 0) for n in numbers],
                }
            )
            path = folder / f"dt=2026-01-{day:02d}" / f"part{file}.{kind}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "parquet":
                pq.write_table(table, path, row_group_size=64)
            else:
                pcsv.write_csv(table, path, pcsv.WriteOptions(quoting_style="none"))


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files of a few hundred rows exceed a unit."""
    monkeypatch.setattr(units, "UNIT_ROWS", 100)
    monkeypatch.setattr(units, "UNIT_BYTES", 3000)


def upload(logs: Path, root: str) -> str:
    """Copy logs into the bucket of a workspace and return their address."""
    bucket = root.removeprefix("gs://").partition("/")[0]
    for path in logs.rglob("*.*"):
        name = f"logs/{path.relative_to(logs).as_posix()}"
        gcs.write(UPath(f"gs://{bucket}/{name}"), path.read_bytes())
    return f"gs://{bucket}/logs"


def spec_of(kind: str, folder: str) -> PipelineSpec:
    """Return a pipeline that reads logs."""
    text = LOGS.replace("KIND", kind).replace("FOLDER", folder)
    return PipelineSpec.model_validate(yaml.safe_load(text))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_dataflow_samples_logs_of_a_bucket_like_a_local_run(
    kind: str,
    storage: Storage,
    dataflow: Dataflow,
    emulated: str,
    tmp_path: Path,
) -> None:
    logs = tmp_path / "logs"
    write_logs(logs, kind)
    address = upload(logs, emulated)

    with pytest.MonkeyPatch.context() as plain:
        for name in [name for name in os.environ if name.startswith("NIGHTBID_")]:
            if name != "NIGHTBID_PRICES":
                plain.delenv(name)
        here = Night(str(tmp_path / "w"), tmp_path / "c", spec_of(kind, str(logs))).sample()
    night = Night(emulated, tmp_path / "cache", spec_of(kind, address))
    if kind == "csv":
        dataflow.plans.append(Plan(lose_worker=1))
    manifest = night.sample()
    assert manifest.files == here.files
    assert len([file for file in manifest.files if file.path.startswith("split=")]) > 9
    assert (manifest.rows, manifest.metrics["days"]) == (here.rows, here.metrics["days"])
    assert manifest.rows.repeated > 0
    (job,) = dataflow.jobs.values()
    assert job.proto.labels["nightbid_stage"] == "sample"
    assert job.workers == (2 if kind == "csv" else 1)
    wait_for_final_cost(night.run)
    paid = [entry for entry in Ledger(night.run.workspace).entries(pipeline="small")
            if entry.service == "dataflow_batch"]  # fmt: skip
    assert {entry.stage for entry in paid} == {"sample"}
    assert total(paid).amount > 0

    # Another pipeline needs no job for the same days.
    renamed = night.spec.model_copy(update={"pipeline": "other"})
    again = Night(emulated, tmp_path / "cache", renamed).sample()
    assert again.files == manifest.files
    assert len(dataflow.jobs) == 1
