"""What a service that runs jobs must offer, and what a stage that uses one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from nightbid.jobs.cost_watch import JobNote
    from nightbid.jobs.store import JobRecord
    from nightbid.night.task import Outcome, StageTask

State = Literal["waiting", "running", "done", "failed", "cancelled", "gone", "unknown"]
"""`waiting`: accepted and not begun; `gone`: the service does not know the job any more;
`unknown`: the service did not answer."""
GOING_ON: tuple[State, ...] = ("waiting", "running", "unknown")
Level = Literal["info", "warning", "error"]


@dataclass(frozen=True)
class JobStatus:
    """What one look at a job told."""

    state: State
    said: str = ""
    """The service's own word, or why it did not answer."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come of the job."""
        return self.state not in GOING_ON


@dataclass(frozen=True)
class Message:
    """One line that a job said."""

    at: datetime
    level: Level
    text: str
    message_id: str = ""

    @property
    def identity(self) -> tuple[datetime, str, str]:
        """By which a message that is delivered twice is known."""
        return self.at, self.message_id, self.text


class JobClient(Protocol):
    """A service that runs jobs. Calls that fail for now raise ServiceError."""

    kind: str
    """Its name in the price book."""

    def find(self, name: str) -> str:
        """Id of the newest job that was submitted by this name, whatever became of it; or empty."""

    def look(self, job_id: str) -> JobStatus:
        """What the job is doing; a service that does not answer is no error."""

    def messages(self, job_id: str, since: datetime | None) -> Sequence[Message]:
        """What the job said since then (inclusive), oldest first."""

    def cancel(self, job_id: str) -> None:
        """Ask the job to end. Asking again, or too late, does no harm."""

    def page(self, job_id: str) -> str:
        """Where a person sees the job."""

    def note(self, job_record: JobRecord) -> JobNote:
        """What the cost watcher must know of the job of an order."""


class RemoteStage(Protocol):
    """What a job does for a stage."""

    @property
    def service(self) -> JobClient:
        """Who runs it."""

    def submit(self, task: StageTask, job_record: JobRecord) -> str:
        """Submit the job by the order's name and request id, and return its id.

        A job that is there already by that name is returned, not submitted again.

        Raises:
            ServiceError: it may or may not have been submitted.
        """

    def collect(self, task: StageTask, job_record: JobRecord) -> Outcome:
        """Turn what the finished job left into the stage's outcome.

        Raises:
            StageError: it left what cannot be used.
        """


@runtime_checkable
class MayNeedNoJob(Protocol):
    """A stage whose job may have nothing to do."""

    def without_job(self, task: StageTask) -> Outcome | None:
        """Make the output here if a job would have nothing to compute; None: submit one."""


@dataclass(frozen=True)
class DeferredJob:
    """A stage that is begun: its job goes on while nobody waits here."""

    job_record: JobRecord
    service: JobClient

    @property
    def page(self) -> str:
        """Where a person sees the job."""
        return self.service.page(self.job_record.job_id)
