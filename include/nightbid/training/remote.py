"""Training as a managed training job, if the settings name one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from upath import UPath

from nightbid.config.cloud import Cloud
from nightbid.config.managed import ManagedTraining
from nightbid.config.pipeline import PipelineSpec
from nightbid.config.settings import Settings
from nightbid.cost.labels import labels
from nightbid.jobs.job import RemoteStage
from nightbid.jobs.result import job_folder, read_result
from nightbid.jobs.store import JobRecord
from nightbid.night.key import library_versions
from nightbid.night.task import Outcome, StageTask
from nightbid.storage.files import download, remove, write_atomically
from nightbid.training.checkpoints import FILE
from nightbid.training.managed import RESULT, TrainingOrder, TrainingResult
from nightbid.training.stage import TrainingRequest, asked_baseline, asked_candidate, outcome_of

if TYPE_CHECKING:
    from google.cloud.aiplatform_v1 import CustomJob

    from nightbid.jobs.vertex import TrainingService

log = logging.getLogger(__name__)

COMMAND = ("python3", "-m", "nightbid.training.managed")
COMPUTING = ("keras", "numpy", "pyarrow", "tensorflow")
"""Libraries whose versions on the workers must equal those in Airflow."""


def candidate(spec: PipelineSpec, settings: Settings) -> RemoteStage | None:
    """Return the managed job that trains the candidate; None means this machine trains it."""
    return _work(settings, asked_candidate)


def baseline(spec: PipelineSpec, settings: Settings) -> RemoteStage | None:
    """Return the managed job that trains the baseline; None means this machine does."""
    if spec.baseline.column:
        return None
    return _work(settings, asked_baseline)


def _work(
    settings: Settings, requested: Callable[[StageTask], TrainingRequest]
) -> RemoteStage | None:
    cloud = settings.cloud
    if not settings.trains_elsewhere or cloud is None or cloud.training is None:
        return None
    from nightbid.jobs.vertex import TrainingService

    service = TrainingService(cloud, cloud.training)
    return TrainingJob(settings, cloud, cloud.training, service, requested)


class TrainingJob:
    """One training as a custom job of Vertex AI; see `nightbid.jobs.job.RemoteStage`."""

    def __init__(
        self,
        settings: Settings,
        cloud: Cloud,
        machines: ManagedTraining,
        service: TrainingService,
        requested: Callable[[StageTask], TrainingRequest],
    ) -> None:
        self._settings = settings
        self._cloud = cloud
        self._machines = machines
        self._service = service
        self._asked = requested

    @property
    def service(self) -> TrainingService:
        """Service that runs the job."""
        return self._service

    def submit(self, task: StageTask, job_record: JobRecord) -> str:
        """Write the training order, price the machines, and submit the job.

        Raises:
            ConfigError: The model's parameters are wrong, or the service refuses the machines.
            PriceError: The price of a machine is unknown, so the job's cost could not be watched.
        """
        from nightbid.jobs.vertex_meter import hourly_usd, pools_of

        requested, folder = self._asked(task), job_folder(task, job_record)
        versions = library_versions()
        order = TrainingOrder(
            **requested.fit.model_dump(),
            stage=job_record.stage,
            featurized=task.workspace.uri(task.inputs["featurize"].folder),
            start=task.workspace.uri(requested.start.folder) if requested.start else None,
            output=task.workspace.uri(folder),
            checkpoints=task.workspace.uri(_checkpoints(task, job_record)),
            code_digest=job_record.code_digest,
            versions={name: versions[name] for name in COMPUTING},
        )
        address = folder / "order.json"
        job = self._job(task, job_record, requested.workers, task.workspace.uri(address))
        option = "spot" if self._machines.spot else ""
        hourly = hourly_usd(pools_of(job), option=option)
        log.info(
            "%s: machines for %.2f %s an hour", job_record.stage, hourly.amount, hourly.currency
        )
        write_atomically(address, order.model_dump_json(indent=1))
        return self._service.submit(job)

    def collect(self, task: StageTask, job_record: JobRecord) -> Outcome:
        """Fetch the output that the first worker wrote.

        Raises:
            StageError: The output is incomplete.
        """
        from nightbid.jobs.vertex_meter import pools_of, training_usage

        folder = job_folder(task, job_record)
        result = read_result(folder / RESULT, job_record, TrainingResult)
        download(folder, result.files, task.output)
        job: Any = self._service.job(job_record.job_id)
        end = job.end_time or datetime.now(UTC)
        seconds = (end - job.start_time).total_seconds() if job.start_time else 0.0
        remove(_checkpoints(task, job_record) / FILE)
        outcome = outcome_of(self._asked(task), dict(result.metrics))
        # The cost watcher records the cost of the job itself: the stage must not record it again.
        return Outcome(
            rows=outcome.rows,
            metrics=outcome.metrics,
            volatile=outcome.volatile,
            summary=outcome.summary,
            usage=training_usage(pools_of(job), seconds),
            service="",
        )

    def _job(self, task: StageTask, job_record: JobRecord, workers: int, address: str) -> CustomJob:
        from google.cloud import aiplatform_v1 as api

        machines = self._machines
        container = api.ContainerSpec(
            image_uri=machines.image,
            command=list(COMMAND),
            args=[address],
            env=[api.EnvVar(name=name, value=text) for name, text in self._env(task).items()],
        )
        machine: dict[str, Any] = {"machine_type": machines.machine_type}
        if machines.accelerator_type:
            machine["accelerator_type"] = machines.accelerator_type
            machine["accelerator_count"] = machines.accelerator_count
        # The first pool holds the first worker only, the second pool the others.
        pools = [
            api.WorkerPoolSpec(
                machine_spec=api.MachineSpec(**machine),
                replica_count=count,
                container_spec=container,
            )
            for count in (1, workers - 1)
            if count
        ]
        strategy = api.Scheduling.Strategy.SPOT if machines.spot else None
        own = labels(pipeline=job_record.pipeline, run_id=job_record.run_id, stage=job_record.stage)
        return api.CustomJob(
            display_name=job_record.name,
            labels={**self._cloud.labels, **own},
            job_spec=api.CustomJobSpec(
                worker_pool_specs=pools,
                service_account=machines.service_account or "",
                network=machines.network or "",
                scheduling=api.Scheduling(
                    timeout={"seconds": int(machines.max_hours * 3600)},
                    # The other workers cannot continue without a lost one.
                    restart_job_on_worker_restart=workers > 1,
                    **({"strategy": strategy} if strategy else {}),
                ),
            ),
        )

    def _env(self, task: StageTask) -> dict[str, str]:
        """Return variables that locate the workspace; the machines provide the credentials."""
        cloud = self._cloud
        variables = {
            "NIGHTBID_PROFILE": self._settings.profile,
            "NIGHTBID_WORKSPACE": str(task.workspace.root),
            "NIGHTBID_CLOUD__PROJECT": cloud.project,
            "NIGHTBID_CLOUD__REGION": cloud.region,
            "NIGHTBID_CLOUD__BUCKET": cloud.bucket,
            "PYTHONUNBUFFERED": "1",
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }
        if cloud.storage_endpoint:
            variables["NIGHTBID_CLOUD__STORAGE_ENDPOINT"] = cloud.storage_endpoint
        return variables


def _checkpoints(task: StageTask, job_record: JobRecord) -> UPath:
    """Return the checkpoint folder of the output's key, so that a new job resumes a lost one."""
    return (
        task.workspace.root
        / "checkpoints"
        / job_record.pipeline
        / job_record.stage
        / job_record.key
    )
