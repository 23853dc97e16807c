"""Interfaces of job services and of the stages that use them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from nightbid.jobs.cost_watch import JobNote
    from nightbid.jobs.store import JobRecord
    from nightbid.night.task import Outcome, StageTask

JobState = Literal["waiting", "running", "done", "failed", "cancelled", "gone", "unknown"]
"""State of a job. `waiting`: accepted but not started; `gone`: the service no longer knows the job;
`unknown`: the service did not answer."""
GOING_ON: tuple[JobState, ...] = ("waiting", "running", "unknown")
Level = Literal["info", "warning", "error"]


@dataclass(frozen=True)
class JobStatus:
    """Status of a job from one poll."""

    state: JobState
    said: str = ""
    """State as the service names it, or why the service did not answer."""

    @property
    def has_ended(self) -> bool:
        """Whether the job has ended."""
        return self.state not in GOING_ON


@dataclass(frozen=True)
class JobMessage:
    """A message of a job."""

    at: datetime
    level: Level
    text: str
    message_id: str = ""

    @property
    def identity(self) -> tuple[datetime, str, str]:
        """Key that identifies duplicates of the message."""
        return self.at, self.message_id, self.text


class JobClient(Protocol):
    """A service that runs jobs. Calls that fail temporarily raise ServiceError."""

    kind: str
    """Name of the service in the price book."""

    def find(self, name: str) -> str:
        """Get the id of the newest job of this name, in any state; empty if there is none."""

    def look(self, job_id: str) -> JobStatus:
        """Get the status of a job; an unreachable service gives state `unknown`, not an error."""

    def messages(self, job_id: str, since: datetime | None) -> Sequence[JobMessage]:
        """Get the messages of a job since a time (inclusive), oldest first."""

    def cancel(self, job_id: str) -> None:
        """Request that a job be stopped; repeating the request, or a late one, has no effect."""

    def page(self, job_id: str) -> str:
        """Get the URL of the job's page."""

    def note(self, job_record: JobRecord) -> JobNote:
        """Make the note with which the cost watch finds the job of a record."""


class RemoteStage(Protocol):
    """A stage that runs as a job of a cloud service."""

    @property
    def service(self) -> JobClient:
        """Get the service that runs the job."""

    def submit(self, task: StageTask, job_record: JobRecord) -> str:
        """Submit the job with the name and request id of its record; return the job's id.

        If a job of that name exists already, its id is returned and nothing is submitted.

        Raises:
            ServiceError: The service did not answer; the job may or may not have been submitted.
        """

    def collect(self, task: StageTask, job_record: JobRecord) -> Outcome:
        """Convert the output of the finished job to the outcome of the stage.

        Raises:
            StageError: The output of the job cannot be used.
        """


@runtime_checkable
class MayNeedNoJob(Protocol):
    """A stage whose job may have nothing to do."""

    def without_job(self, task: StageTask) -> Outcome | None:
        """Make the output here if a job has nothing to compute; None: a job must be submitted."""


@dataclass(frozen=True)
class DeferredJob:
    """A begun stage, whose job is running while no process waits for it."""

    job_record: JobRecord
    service: JobClient

    @property
    def page(self) -> str:
        """URL of the job's page."""
        return self.service.page(self.job_record.job_id)
