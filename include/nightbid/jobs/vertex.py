"""Vertex AI custom jobs as a job service, with their logs from Cloud Logging."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import grpc  # type: ignore[import-untyped]
from google.api_core import exceptions
from google.api_core.retry import Retry, if_exception_type
from google.cloud import aiplatform_v1 as api
from google.cloud.logging_v2 import types as logs
from google.cloud.logging_v2.services.logging_service_v2 import LoggingServiceV2Client
from google.cloud.logging_v2.services.logging_service_v2.transports import (
    LoggingServiceV2GrpcTransport,
)

from nightbid.config.cloud import Cloud
from nightbid.config.managed import ManagedTraining
from nightbid.jobs.job import JobMessage, JobState, JobStatus, Level
from nightbid.jobs.meter import TRANSIENT, short
from nightbid.jobs.service import WRONG, CloudService
from nightbid.jobs.vertex_meter import SERVICE, connect

log = logging.getLogger(__name__)

CONSOLE = "https://console.cloud.google.com/vertex-ai/locations"
READ = Retry(if_exception_type(*TRANSIENT), initial=0.5, maximum=5.0, timeout=30.0)
"""Retry with exponential backoff and jitter, for calls that are safe to repeat."""
TIMEOUT_SECONDS = 30.0
PAGE = 500
STATES: dict[str, JobState] = {
    "QUEUED": "waiting",
    "PENDING": "waiting",
    "RUNNING": "running",
    "CANCELLING": "running",
    "UPDATING": "running",
    "PAUSED": "running",
    "SUCCEEDED": "done",
    "FAILED": "failed",
    "EXPIRED": "failed",
    "PARTIALLY_SUCCEEDED": "failed",
    "CANCELLED": "cancelled",
}
WARNING, ERROR = 400, 500
"""Severities of Cloud Logging."""


class TrainingService(CloudService):
    """Submits and polls custom jobs of Vertex AI."""

    kind = SERVICE
    watched_as = "vertex_training"
    title = "Vertex AI"
    block = "cloud.training"

    def __init__(self, cloud: Cloud, settings: ManagedTraining) -> None:
        super().__init__(cloud)
        self._settings = settings
        self._parent = f"projects/{cloud.project}/locations/{cloud.region}"

    @property
    def _address(self) -> str | None:
        endpoint = self._settings.endpoint
        return endpoint.removeprefix("http://") if endpoint else None

    @property
    def _clients(self) -> tuple[Any, Any]:
        return _connected(os.getpid(), self._cloud.region, self._address)

    def job(self, job_id: str) -> api.CustomJob:
        """Get a job from the service."""
        with self.in_one_line(f"job {job_id}"):
            return self._get(job_id)

    def _get(self, job_id: str) -> api.CustomJob:
        name = f"{self._parent}/customJobs/{job_id}"
        job: api.CustomJob = self._clients[0].get_custom_job(
            name=name, retry=READ, timeout=TIMEOUT_SECONDS
        )
        return job

    def find(self, name: str) -> str:
        """Get the id of the newest job of this name; empty if there is none."""
        request = api.ListCustomJobsRequest(
            parent=self._parent, filter=f'display_name="{name}"', page_size=PAGE
        )
        with self.in_one_line(f"jobs called {name}"):
            jobs = list(
                self._clients[0].list_custom_jobs(request, retry=READ, timeout=TIMEOUT_SECONDS)
            )
        newest = max(jobs, key=lambda job: job.create_time, default=None)
        return _number(newest) if newest else ""

    def look(self, job_id: str) -> JobStatus:
        """Get the status of a job."""
        try:
            job = self._get(job_id)
        except exceptions.NotFound as error:
            return JobStatus("gone", short(error))
        except WRONG as error:
            return JobStatus("unknown", short(error))
        state = job.state.name.removeprefix("JOB_STATE_")
        why = " ".join(job.error.message.split())
        return JobStatus(STATES.get(state, "unknown"), f"{state}: {why}" if why else state)

    def messages(self, job_id: str, since: datetime | None) -> Sequence[JobMessage]:
        """Get the messages of a job's workers."""
        conditions = ['resource.type="ml_job"', f'resource.labels.job_id="{job_id}"']
        if since is not None:
            moment = since.astimezone(UTC).isoformat(timespec="microseconds")
            conditions.append(f'timestamp>="{moment}"')
        request = logs.ListLogEntriesRequest(
            resource_names=[f"projects/{self._cloud.project}"],
            filter=" AND ".join(conditions),
            order_by="timestamp asc",
            page_size=PAGE,
        )
        with self.in_one_line(f"log of job {job_id}"):
            entries = self._clients[1].list_log_entries(
                request, retry=READ, timeout=TIMEOUT_SECONDS
            )
            return [_message(entry) for entry in entries]

    @property
    def _option(self) -> str:
        return "spot" if self._settings.spot else ""

    def _request_cancel(self, job_id: str) -> None:
        name = f"{self._parent}/customJobs/{job_id}"
        self._clients[0].cancel_custom_job(name=name, retry=READ, timeout=TIMEOUT_SECONDS)

    def page(self, job_id: str) -> str:
        """Get the URL of the job in the Google Cloud console."""
        project, region = self._cloud.project, self._cloud.region
        if self._settings.endpoint:
            return f"{self._settings.endpoint}/customJobs/{job_id}"
        return f"{CONSOLE}/{region}/training/{job_id}?project={project}"

    def submit(self, job: api.CustomJob) -> str:
        """Create a job once, and return its id.

        The service would create a second job for a repeated request, and a response may be lost. So
        before repeating a request, the job is looked up by its name.

        Raises:
            ConfigError: The service refuses the job.
            ServiceError: The service is unreachable or a quota is used up for longer than the
                retries last.
        """
        end, pause = time.monotonic() + self._settings.patience_seconds, 1.0
        while True:
            with self.in_one_line(f"submitting job {job.display_name}"):
                try:
                    submitted = self._clients[0].create_custom_job(
                        parent=self._parent, custom_job=job, retry=None, timeout=TIMEOUT_SECONDS
                    )
                    return _number(submitted)
                except TRANSIENT as error:
                    if time.monotonic() + pause > end:
                        raise
                    log.warning("%s: %s; tried again", job.display_name, short(error))
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            pause = min(2 * pause, 20.0)
            if job_id := self.find(job.display_name):
                return job_id


@lru_cache(maxsize=4)
def _connected(process: int, region: str, address: str | None) -> tuple[Any, Any]:
    # One client per process, because a channel must not be shared across a fork.
    if address is None:
        return connect(region), LoggingServiceV2Client()
    transport = LoggingServiceV2GrpcTransport(channel=grpc.insecure_channel(address))
    return connect(region, address), LoggingServiceV2Client(transport=transport)


def _number(job: api.CustomJob) -> str:
    return str(job.name.rpartition("/")[2])


def _message(entry: logs.LogEntry) -> JobMessage:
    text = entry.text_payload
    if not text and entry.json_payload:
        text = str(dict(entry.json_payload).get("message", ""))
    severity = int(entry.severity)
    level: Level = "error" if severity >= ERROR else "warning" if severity >= WARNING else "info"
    replica = entry.resource.labels.get("task_name", "")
    # Messages of the first worker are shown without its name.
    shown = text.rstrip() if replica in ("", "workerpool0-0") else f"{replica}: {text.rstrip()}"
    # proto-plus answers a datetime, whatever the stubs say.
    moment: Any = entry.timestamp
    at = datetime.fromtimestamp(moment.timestamp(), UTC)
    return JobMessage(at, level, shown, entry.insert_id)
