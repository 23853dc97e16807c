"""Base of the job services of Google Cloud: cancellation, job notes and one-line errors."""

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
from nightbid.jobs.cost_watch import JobNote, MeteredService
from nightbid.jobs.meter import short
from nightbid.jobs.store import JobRecord

WRONG = (exceptions.GoogleAPICallError, exceptions.RetryError, GoogleAuthError, RequestException)
"""Errors that the clients raise if a service refuses or cannot be reached."""


class CloudService(ABC):
    """A service that runs jobs in a project, see `nightbid.jobs.job.JobClient`."""

    watched_as: ClassVar[MeteredService]
    """Name of the service for the cost watch."""
    title: ClassVar[str]
    """Name of the service in messages."""
    block: ClassVar[str]
    """Block of the settings that configures its jobs."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    @property
    @abstractmethod
    def _address(self) -> str | None:
        """Get the address of an emulator in the client's form; None for Google."""

    @property
    @abstractmethod
    def _option(self) -> str:
        """Get the purchase option of the machines, if it has its own price; empty: none."""

    @abstractmethod
    def _request_cancel(self, job_id: str) -> None:
        """Request the service to cancel a job; raises the errors of the service."""

    def cancel(self, job_id: str) -> None:
        """Request that a job be stopped."""
        with self.in_one_line(f"canceling job {job_id}"):
            try:
                self._request_cancel(job_id)
            except (exceptions.NotFound, exceptions.BadRequest):
                return  # the job has ended already

    def note(self, job_record: JobRecord) -> JobNote:
        """Make the note with which the cost watch finds the job."""
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
    def in_one_line(self, action: str) -> Iterator[None]:
        """Convert errors of the service's client to one-line errors.

        Raises:
            ConfigError: A user must change something first.
            ServiceError: The error may be temporary.
        """
        try:
            yield
        except WRONG as error:
            raise self._told(error, f"{self.title}: {action}") from error

    def _told(self, error: Exception, where: str) -> NightbidError:
        text = short(error)
        if isinstance(error, exceptions.Forbidden | exceptions.Unauthorized):
            return ConfigError(
                text, where=where, hint="grant the account its roles, see docs/cloud.md"
            )
        if isinstance(error, exceptions.BadRequest):
            return ConfigError(text, where=where, hint=f"fix {self.block} in the settings")
        if isinstance(error, exceptions.TooManyRequests):
            return ServiceError(text, where=where, hint="request more quota, or run it later")
        return ServiceError(text, where=where, hint="a rerun resumes where this one ended")
