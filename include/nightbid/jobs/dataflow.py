"""Google Cloud Dataflow as a job service, for batch jobs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from google.api_core import exceptions
from google.cloud import dataflow_v1beta3 as api

from nightbid.config.cloud import Cloud, Dataflow
from nightbid.cost.labels import labels
from nightbid.jobs.dataflow_meter import SERVICE, Clients
from nightbid.jobs.job import JobMessage, JobState, JobStatus, Level
from nightbid.jobs.meter import short
from nightbid.jobs.service import WRONG, CloudService
from nightbid.jobs.store import JobRecord

if TYPE_CHECKING:
    import apache_beam as beam

CONSOLE = "https://console.cloud.google.com/dataflow/jobs"
TIMEOUT_SECONDS = 60.0
MESSAGES_AT_ONCE = 1000
TRACEBACKS = ("apache_beam.utils.retry", "apache_beam.runners.dataflow.internal.apiclient")
"""Beam's loggers that log refusals with tracebacks; Nightbid reports them in one line instead."""
STATES: dict[str, JobState] = {
    "UNKNOWN": "waiting",
    "STOPPED": "waiting",
    "QUEUED": "waiting",
    "PENDING": "waiting",
    "RUNNING": "running",
    "DRAINING": "running",
    "CANCELLING": "running",
    "PAUSING": "running",
    "PAUSED": "running",
    "RESOURCE_CLEANING_UP": "running",
    "DONE": "done",
    "FAILED": "failed",
    "CANCELLED": "cancelled",
    # A drained batch job has not read all of its input.
    "DRAINED": "cancelled",
    "UPDATED": "failed",
}
FLEXRS = {"cost": "COST_OPTIMIZED", "speed": "SPEED_OPTIMIZED"}
LEVELS: dict[str, Level] = {
    "JOB_MESSAGE_WARNING": "warning",
    "JOB_MESSAGE_ERROR": "error",
}


class DataflowService(CloudService):
    """Submits and polls Dataflow jobs."""

    kind = SERVICE
    watched_as = "dataflow"
    title = "Dataflow"
    block = "cloud.dataflow"

    def __init__(self, cloud: Cloud, settings: Dataflow) -> None:
        super().__init__(cloud)
        self._settings = settings
        self._connected: Clients | None = None

    @property
    def _clients(self) -> Clients:
        if self._connected is None:
            self._connected = Clients.connect(self._settings.endpoint)
        return self._connected

    @property
    def _place(self) -> dict[str, str]:
        return {"project_id": self._cloud.project, "location": self._cloud.region}

    def find(self, name: str) -> str:
        """Get the id of the newest job of this name; empty if there is none."""
        request = api.ListJobsRequest(
            **self._place, name=name, filter=api.ListJobsRequest.Filter.ALL
        )
        with self.in_one_line(f"jobs called {name}"):
            jobs = [
                job
                for job in self._clients.jobs.list_jobs(request, timeout=TIMEOUT_SECONDS)
                if job.name == name
            ]
        newest = max(jobs, key=lambda job: _moment(job.create_time), default=None)
        return newest.id if newest else ""

    def look(self, job_id: str) -> JobStatus:
        """Get the status of a job."""
        request = api.GetJobRequest(**self._place, job_id=job_id)
        try:
            job = self._clients.jobs.get_job(request, timeout=TIMEOUT_SECONDS)
        except exceptions.NotFound as error:
            return JobStatus("gone", short(error))
        except WRONG as error:
            return JobStatus("unknown", short(error))
        state = job.current_state.name.removeprefix("JOB_STATE_")
        return JobStatus(STATES.get(state, "unknown"), state)

    def messages(self, job_id: str, since: datetime | None) -> Sequence[JobMessage]:
        """Get the messages of a job."""
        request = api.ListJobMessagesRequest(
            **self._place,
            job_id=job_id,
            start_time=since,
            minimum_importance=api.JobMessageImportance.JOB_MESSAGE_BASIC,
            page_size=MESSAGES_AT_ONCE,
        )
        with self.in_one_line(f"messages of job {job_id}"):
            messages = [
                JobMessage(
                    at=_moment(message.time),
                    level=LEVELS.get(message.message_importance.name, "info"),
                    text=message.message_text,
                    message_id=message.id,
                )
                for message in self._clients.messages.list_job_messages(
                    request, timeout=TIMEOUT_SECONDS
                )
            ]
        return sorted(messages, key=lambda message: message.at)

    @property
    def _address(self) -> str | None:
        return self._settings.endpoint

    @property
    def _option(self) -> str:
        return "flexrs" if self._settings.flexrs else ""

    def _request_cancel(self, job_id: str) -> None:
        job = api.Job(requested_state=api.JobState.JOB_STATE_CANCELLED)
        request = api.UpdateJobRequest(**self._place, job_id=job_id, job=job)
        self._clients.jobs.update_job(request, timeout=TIMEOUT_SECONDS)

    def page(self, job_id: str) -> str:
        """Get the URL of the job in the Google Cloud console."""
        if self._settings.endpoint:
            return f"{self._settings.endpoint}/jobs/{job_id}"
        return f"{CONSOLE}/{self._cloud.region}/{job_id}?project={self._cloud.project}"

    def submit(
        self, job_record: JobRecord, folder: str, expand: Callable[[beam.Pipeline], Any]
    ) -> str:
        """Submit a pipeline once: the service recognizes a repeated request by its request id.

        Args:
            job_record: Record of the job, with its name and request id.
            folder: gs:// folder for staged and temporary files.
            expand: Function that adds the transforms to the pipeline.

        Returns:
            Id of the job.
        """
        import apache_beam as beam
        from apache_beam.options.pipeline_options import (
            GoogleCloudOptions,
            PipelineOptions,
            TestOptions,
        )
        from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner
        from apache_beam.runners.dataflow.internal import apiclient

        logging.getLogger("apache_beam").setLevel(logging.WARNING)
        for name in TRACEBACKS:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        options = PipelineOptions([], **self._options(job_record, folder))
        pipeline = beam.Pipeline(DataflowRunner(), options)
        expand(pipeline)
        # The runner draws a new request id at each call, but Nightbid's must outlive this process.
        # So the runner only builds the job, and its client stages and submits it.
        job = pipeline.run().job
        job.options.view_as(TestOptions).dry_run = False
        job.proto.client_request_id = job_record.request_id
        if self._settings.endpoint:
            # Set only now, because the runner refuses gRPC addresses other than Google's.
            place = job.options.view_as(GoogleCloudOptions)
            place.dataflow_endpoint = self._settings.endpoint
        client = apiclient.DataflowApplicationClient(job.options, job.root_staging_location)
        with self.in_one_line(f"submitting job {job_record.name}"):
            try:
                return str(client.create_job(job).id)
            except apiclient.DataflowJobAlreadyExistsError:
                return self.find(job_record.name)

    def _options(self, job_record: JobRecord, folder: str) -> dict[str, Any]:
        settings = self._settings
        own = labels(pipeline=job_record.pipeline, run_id=job_record.run_id, stage=job_record.stage)
        marks = {**self._cloud.labels, **own}
        options: dict[str, Any] = {
            "dry_run": True,
            "project": self._cloud.project,
            "region": self._cloud.region,
            "job_name": job_record.name,
            "temp_location": f"{folder}/temp",
            "staging_location": f"{folder}/staging",
            "labels": [f"{name}={value}" for name, value in marks.items()],
            "machine_type": settings.machine_type,
            "disk_size_gb": settings.disk_gb,
            "max_num_workers": settings.max_workers,
            "autoscaling_algorithm": "THROUGHPUT_BASED" if settings.autoscaling else "NONE",
            "use_public_ips": settings.public_ips,
            "save_main_session": False,
        }
        optional = {
            "num_workers": settings.workers,
            "service_account_email": settings.service_account,
            "network": settings.network,
            "subnetwork": settings.subnetwork,
            "flexrs_goal": FLEXRS.get(settings.flexrs or ""),
            "dataflow_service_options": list(settings.service_options) or None,
        }
        options |= {name: value for name, value in optional.items() if value is not None}
        if settings.image:
            options |= {"sdk_container_image": settings.image, "sdk_location": "container"}
        if settings.endpoint:
            # Without credentials, which the client would search for half a minute.
            options["no_auth"] = True
        return options


def _moment(time: Any) -> datetime:
    # proto-plus answers a datetime, whatever the stubs say.
    return datetime.fromtimestamp(time.timestamp(), UTC) if time else datetime.fromtimestamp(0, UTC)
