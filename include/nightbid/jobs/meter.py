"""Meters the cost of a cloud job while it runs: the parts common to all services.

A service reports the state and usage of the job. The meter records the usage in the ledger,
compares it with the budget, and asks the service to cancel a job that exceeds a limit. Usage only
grows, so the largest quantity of each resource seen is the usage. The ledger keeps it, and a
restarted watcher continues from there.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import ClassVar

from google.api_core import exceptions
from requests.exceptions import RequestException

from nightbid.cost.budget import BudgetGuard, BudgetStatus, project
from nightbid.cost.ledger import Ledger, price_entries, total
from nightbid.cost.price_book import PriceBook, default_book
from nightbid.storage.workspace import Workspace

log = logging.getLogger(__name__)

VANISHED = "VANISHED"
UNKNOWN = "UNKNOWN"
TRANSIENT = (
    exceptions.ResourceExhausted,
    exceptions.ServiceUnavailable,
    exceptions.DeadlineExceeded,
    exceptions.InternalServerError,
    exceptions.Aborted,
    exceptions.Unknown,
    exceptions.Cancelled,
    exceptions.RetryError,
    RequestException,
)
"""Temporary errors of a service, which only cost a poll."""


@dataclass(frozen=True)
class MeteredJob:
    """Location of a job, and the attempt at a stage that it belongs to."""

    project: str
    location: str
    job_id: str
    pipeline: str
    run_id: str
    stage: str
    attempt: int
    option: str = ""
    """Purchase option with its own price: `flexrs`, `spot`; empty: none."""


@dataclass(frozen=True)
class JobUsage:
    """Usage of a job as the service reports it."""

    state: str
    """`RUNNING`, … as the service says, `VANISHED`, or `UNKNOWN` if it did not answer."""
    used: Mapping[str, Decimal] = field(default_factory=dict)
    """Resource → quantity so far, in the unit of its name."""
    started: datetime | None = None
    final: bool = False
    """Whether the usage is final; always False for services whose metrics arrive late."""
    option: str = ""


@dataclass(frozen=True)
class JobPoll:
    """Result of one poll of a job."""

    state: str
    """`RUNNING`, `DONE`, … as the service says, `VANISHED`, or `UNKNOWN` if it did not answer."""
    spent_usd: Decimal
    """Cost of the attempt so far, from the ledger."""
    projected_usd: Decimal
    """Estimated final cost of the attempt, from past runs of its stage."""
    judgment: BudgetStatus
    reason: str
    """One-line reason if the judgment is not `ok`; otherwise empty."""
    cancelled: bool
    """Whether the service accepted a request to cancel."""
    trouble: str
    """Why some of the usage could not be read in this poll; empty: all was read."""
    grew: bool
    """Whether the poll added usage to the ledger."""
    ended: bool
    """Whether the job has ended and consumes no more."""
    final: bool
    """Whether the cost is final."""


@dataclass(frozen=True)
class FinalCost:
    """Final cost of an ended job."""

    state: str
    spent_usd: Decimal
    complete: bool
    """Whether the final metrics arrived in time; if not, the cost is that of the usage seen."""


class JobMeter(ABC):
    """Records the usage of a job in the ledger at each poll, and cancels it if over budget.

    Args:
        job: Job to meter.
        workspace: Workspace of the ledger.
        guard: Budget guard of the attempt.
        timeout: Timeout of a call to the service, in seconds.
        book: Price book; None: that of the installation.
    """

    service: ClassVar[str]
    """Name of the service in the ledger and the price book."""
    ended_states: ClassVar[frozenset[str]]
    expected: ClassVar[frozenset[str]] = frozenset()
    """Resources that every job uses; without them, the known usage is incomplete."""

    def __init__(
        self,
        job: MeteredJob,
        workspace: Workspace,
        guard: BudgetGuard,
        *,
        timeout: float = 30.0,
        book: PriceBook | None = None,
    ) -> None:
        self._job = job
        self._ledger = Ledger(workspace)
        self.guard = guard
        self.past: Sequence[Decimal] = ()
        """Final costs of the stage in past runs."""
        self._timeout = timeout
        self._book = book or default_book()
        self._started: datetime | None = None
        self._cancelled = False

    @abstractmethod
    def look(self, trouble: list[str]) -> JobUsage:
        """Get the usage from the service; add what could not be read to `trouble`."""

    @abstractmethod
    def request_cancel(self) -> None:
        """Request the service to cancel the job; raises the errors of the service."""

    def poll(self) -> JobPoll:
        """Poll once: get state and usage, record and judge them, cancel the job if over budget."""
        trouble: list[str] = []
        usage = self.look(trouble)
        self._started = usage.started or self._started
        ended = usage.state == VANISHED or usage.state in self.ended_states
        grew = self._enter(usage, ended)
        spent = self._spent()
        projected = spent if ended else project(spent, 0.0, self.past)
        judgment, reason = self.guard.budget_status(spent, projected)
        if judgment == "over" and not ended and not self._cancelled:
            self._cancel(reason, trouble)
        return JobPoll(
            state=usage.state,
            spent_usd=spent,
            projected_usd=projected,
            judgment=judgment,
            reason=reason,
            cancelled=self._cancelled,
            trouble="; ".join(trouble),
            grew=grew,
            ended=ended,
            final=ended and usage.final,
        )

    def settle(
        self,
        *,
        bound_seconds: float = 600.0,
        every_seconds: float = 15.0,
        quiet_polls: int = 3,
        sleep: Callable[[float], None] = time.sleep,
    ) -> FinalCost:
        """Wait for the final usage of an ended job, whose metrics arrive minutes late.

        Args:
            bound_seconds: Maximum time to wait, in seconds.
            every_seconds: Seconds between polls.
            quiet_polls: Number of consecutive polls without new usage from which it is final.
            sleep: Function that sleeps for some seconds.
        """
        quiet, waited = 0, 0.0
        while True:
            poll = self.poll()
            if poll.state == VANISHED:
                return FinalCost(poll.state, poll.spent_usd, complete=False)
            quiet = 0 if poll.grew or poll.trouble else quiet + 1
            if poll.final or (quiet >= quiet_polls and self.has_expected()):
                return FinalCost(poll.state, poll.spent_usd, complete=True)
            if waited >= bound_seconds:
                missing = ", ".join(sorted(self.expected - self._known().keys()))
                log.warning(
                    "job %s: metrics were not final within %.0f s (missing: %s)",
                    self._job.job_id, bound_seconds, missing or "none, still changing",
                )  # fmt: skip
                return FinalCost(poll.state, poll.spent_usd, complete=False)
            sleep(every_seconds)
            waited += every_seconds

    def has_expected(self) -> bool:
        """Whether the ledger has all resources that every job uses, see `expected`."""
        return self._known().keys() >= self.expected

    def _enter(self, seen: JobUsage, ended: bool) -> bool:
        known = self._known()
        news = {
            name: value for name, value in seen.used.items() if value > known.get(name, Decimal(0))
        }
        if not news:
            return False
        job = self._job
        self._ledger.append(
            price_entries(
                news,
                pipeline=job.pipeline,
                run_id=job.run_id,
                stage=job.stage,
                attempt=job.attempt,
                started=self._started or datetime.now(UTC),
                state=seen.state.lower() if ended else "running",
                service=self.service,
                job=job.job_id,
                option=seen.option or job.option,
                book=self._book,
            )
        )
        return True

    def _known(self) -> dict[str, Decimal]:
        job = self._job
        entries = self._ledger.entries(pipeline=job.pipeline, run_id=job.run_id, stage=job.stage)
        return {entry.resource: entry.quantity for entry in entries if entry.job == job.job_id}

    def _spent(self) -> Decimal:
        job = self._job
        entries = self._ledger.entries(pipeline=job.pipeline, run_id=job.run_id, stage=job.stage)
        return total(entry for entry in entries if entry.attempt == job.attempt).amount

    def _cancel(self, reason: str, trouble: list[str]) -> None:
        try:
            self.request_cancel()
        except (*TRANSIENT, exceptions.NotFound) as error:
            # The next poll tries again.
            trouble.append(f"cancel: {short(error)}")
            return
        self._cancelled = True
        log.warning("job %s: %s", self._job.job_id, reason)


def short(error: Exception) -> str:
    """Shorten the error of a service to one line."""
    text = " ".join(str(getattr(error, "message", "") or error).split())
    return f"{type(error).__name__}: {text}"[:200]
