"""The only module that uses MLflow. Importing it takes seconds: see `log`."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

# A store that is down must not delay a night, and no telemetry is sent.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    Metric,
    Param,
    RunTag,
    ViewType,
)
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from nightbid.addresses import shown
from nightbid.storage.workspace import Workspace
from nightbid.tracking.logged import Logged
from nightbid.tracking.payload import Payload

RUN_TAG = "nightbid.run"
ENTRY_TAG = "nightbid.entry"
"""Digest of the logged payload; set last, so that a run with this tag is complete."""
_BATCH = 90
"""Entries per call; MLflow accepts 100 parameters or tags, and 1000 metrics."""


class TrackingStore:
    """Logs runs to one MLflow tracking store."""

    def __init__(self, uri: str, workspace: Workspace) -> None:
        if uri.startswith("sqlite:///"):
            Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self._uri, self._workspace = uri, workspace
        self._files = (
            # MLflow's default is a folder in the current working directory.
            (Path(str(workspace.root)) / "tracking" / "artifacts").as_uri()
            if uri.startswith("sqlite:") and workspace.is_local
            else None
        )

    def log(self, payload: Payload) -> Logged:
        """Log one run once; it replaces earlier entries of the same run."""
        experiment = self._experiment(payload.experiment)
        before = self._runs(experiment, payload.run_id)
        for run in before:
            if run.data.tags.get(ENTRY_TAG) == payload.digest:
                self._forget(other for other in before if other is not run)
                return Logged(
                    store=shown(self._uri), experiment_id=experiment, run_id=str(run.info.run_id)
                )
        run_id = self._write(experiment, payload)
        self._forget(before)
        return Logged(store=shown(self._uri), experiment_id=experiment, run_id=run_id)

    def _write(self, experiment: str, payload: Payload) -> str:
        client, started = self._client, _milliseconds(payload.started)
        run = client.create_run(
            experiment, start_time=started, run_name=payload.run_id, tags={RUN_TAG: payload.run_id}
        )
        run_id = str(run.info.run_id)
        parameters = [Param(name, value) for name, value in payload.parameters.items()]
        tags = [RunTag(name, value) for name, value in payload.tags.items()]
        ended = _milliseconds(payload.ended)
        metrics = [Metric(p.name, p.value, ended, p.step) for p in payload.metrics]
        for part in _parts(parameters):
            client.log_batch(run_id, params=part)
        for part in _parts(tags):
            client.log_batch(run_id, tags=part)
        for part in _parts(metrics):
            client.log_batch(run_id, metrics=part)
        if payload.data is not None:
            data = payload.data
            source = {"uri": f"{self._workspace.root}/{data.uri}"}
            client.log_inputs(
                run_id,
                datasets=[
                    DatasetInput(
                        # MLflow keeps 36 characters of a digest; ours has 32.
                        Dataset(data.name, data.digest, "nightbid", json.dumps(source),
                                profile=json.dumps(data.profile)),
                        [InputTag("mlflow.data.context", "training")],
                    )
                ],
            )  # fmt: skip
        self._files_of(run_id, payload)
        client.set_tag(run_id, ENTRY_TAG, payload.digest)
        client.set_terminated(run_id, "FAILED" if payload.failed else "FINISHED", ended)
        return run_id

    def _files_of(self, run_id: str, payload: Payload) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for uri in payload.artifacts:
                path = self._workspace.at(uri)
                if path.exists():
                    local = Path(folder) / path.name
                    local.write_bytes(path.read_bytes())
                    self._client.log_artifact(run_id, str(local))
            if payload.slices:
                local = Path(folder) / "slices.json"
                local.write_text(json.dumps(payload.slices, indent=1), encoding="utf-8")
                self._client.log_artifact(run_id, str(local))

    def _experiment(self, name: str) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            if experiment.lifecycle_stage == "deleted":
                self._client.restore_experiment(experiment.experiment_id)
            return str(experiment.experiment_id)
        location = f"{self._files}/{name}" if self._files else None
        try:
            return str(self._client.create_experiment(name, artifact_location=location))
        except MlflowException:
            # Another process created it meanwhile.
            experiment = self._client.get_experiment_by_name(name)
            if experiment is None:
                raise
            return str(experiment.experiment_id)

    def _runs(self, experiment: str, run_id: str) -> list[Any]:
        return list(
            self._client.search_runs(
                [experiment],
                filter_string=f"tags.`{RUN_TAG}` = '{run_id}'",
                run_view_type=ViewType.ACTIVE_ONLY,
            )
        )

    def _forget(self, runs: Any) -> None:
        for run in runs:
            self._client.delete_run(run.info.run_id)


def _milliseconds(time: datetime) -> int:
    return round(time.timestamp() * 1000)


def _parts(values: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(values), _BATCH):
        yield values[start : start + _BATCH]
