"""What the job services of one cloud have in common: being canceled, noted, and told of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from google.api_core import exceptions
from google.auth.exceptions import GoogleAuthError
from requests.exceptions import RequestException

from nightbid.config.cloud import Cloud
from nightbid.errors import ConfigError, NightbidError, ServiceError
from nightbid.jobs.cost_watch import JobNote, Service
from nightbid.jobs.meter import short
from nightbid.jobs.store import JobRecord

WRONG = (exceptions.GoogleAPICallError, exceptions.RetryError, GoogleAuthError, RequestException)
"""What the clients raise when a service refuses, or cannot be reached."""


class CloudService(ABC):
    """A service that runs jobs in a project, see `nightbid.jobs.job.JobClient`."""

    watched_as: ClassVar[Service]
    """What the cost watcher calls it."""
    title: ClassVar[str]
    """What people call it."""
    block: ClassVar[str]
    """Of the settings, where its jobs are described."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    @property
    @abstractmethod
    def _address(self) -> str | None:
        """Of an emulator, as the client wants it; None for Google."""

    @property
    @abstractmethod
    def _option(self) -> str:
        """How the machines are bought, where that has a price of its own."""

    @abstractmethod
    def _request_cancel(self, job_id: str) -> None:
        """Ask the service to end a job; its errors pass through."""

    def cancel(self, job_id: str) -> None:
        """Ask the job to end."""
        with self.in_one_line(f"canceling job {job_id}"):
            try:
                self._request_cancel(job_id)
            except (exceptions.NotFound, exceptions.BadRequest):
                return  # it has ended already

    def note(self, job_record: JobRecord) -> JobNote:
        """What the cost watcher must know."""
        return JobNote(
            stage=job_record.stage,
            attempt=job_record.attempt,
            project=self._cloud.project,
            location=self._cloud.region,
            job_id=job_record.job_id,
            started=job_record.started,
            service=self.watched_as,
            option=self._option,
            endpoint=self._address,
        )

    @contextmanager
    def in_one_line(self, what: str) -> Iterator[None]:
        """Say in one line what the service's client says.

        Raises:
            ConfigError: a person has to change something first.
            ServiceError: it may go better later.
        """
        try:
            yield
        except WRONG as error:
            raise self._told(error, f"{self.title}: {what}") from error

    def _told(self, error: Exception, where: str) -> NightbidError:
        text = short(error)
        if isinstance(error, exceptions.Forbidden | exceptions.Unauthorized):
            return ConfigError(text, where=where, hint="give the account its roles, see cloud.md")
        if isinstance(error, exceptions.BadRequest):
            return ConfigError(text, where=where, hint=f"fix {self.block} in the settings")
        if isinstance(error, exceptions.TooManyRequests):
            return ServiceError(text, where=where, hint="ask for more quota, or run it later")
        return ServiceError(text, where=where, hint="a rerun goes on where this one ended")
