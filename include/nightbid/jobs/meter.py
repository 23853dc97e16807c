"""One cloud job and its cost while it runs: what is common to every service that is followed.

A service tells where the job stands and what it has used; the meter enters that in the ledger,
holds it against the budget, and asks the service to cancel what has passed a limit. Usage only
grows, so the largest quantity seen of each resource is the usage; the ledger keeps it, and a
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

from nightbid.cost.budget import BudgetGuard, Judgment, project
from nightbid.cost.ledger import Ledger, price_entries, total
from nightbid.cost.pricing import PriceBook, default_book
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
"""What a service answers now and then: it costs a poll and nothing else."""


@dataclass(frozen=True)
class Job:
    """Where a job runs, and the attempt at a stage that it works for."""

    project: str
    location: str
    job_id: str
    pipeline: str
    run_id: str
    stage: str
    attempt: int
    option: str = ""
    """How it was bought, where that has a price of its own: `flexrs`, `spot`."""


@dataclass(frozen=True)
class JobUsage:
    """What a service told of a job."""

    state: str
    """`RUNNING`, … as the service says, `VANISHED`, or `UNKNOWN` if it did not answer."""
    used: Mapping[str, Decimal] = field(default_factory=dict)
    """Resource → quantity so far, in the unit of its name."""
    started: datetime | None = None
    final: bool = False
    """Whether this is all there will be; services whose metrics arrive late never say so."""
    option: str = ""


@dataclass(frozen=True)
class Poll:
    """What one look at a job told."""

    state: str
    """`RUNNING`, `DONE`, … as the service says, `VANISHED`, or `UNKNOWN` if it did not answer."""
    spent_usd: Decimal
    """By the attempt so far, as in the ledger."""
    projected_usd: Decimal
    """By the attempt in the end, going by past runs of its stage."""
    judgment: Judgment
    reason: str
    """One line where the judgment is not ok."""
    cancelled: bool
    """Whether the service took our request to cancel."""
    trouble: str
    """Why some of it could not be read this time."""
    grew: bool
    """Whether the ledger learned something."""
    ended: bool
    """Whether the job will consume no more."""
    final: bool
    """Whether its cost is known in full already."""


@dataclass(frozen=True)
class FinalCost:
    """Cost of a job that ended."""

    state: str
    spent_usd: Decimal
    complete: bool
    """Whether the final metrics came in time; if not, the cost is what was seen."""


class JobMeter(ABC):
    """Enters a job's usage in the ledger, poll by poll, and cancels it over its budget.

    Args:
        job: which.
        workspace: whose ledger.
        breaker: the budget.
        timeout: seconds for one call.
        book: prices.
    """

    service: ClassVar[str]
    """In the ledger and the price book."""
    ended_states: ClassVar[frozenset[str]]
    expected: ClassVar[frozenset[str]] = frozenset()
    """Every job that ran used these: without them what is known is not complete."""

    def __init__(
        self,
        job: Job,
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
        """What the stage cost in the end in past runs."""
        self._timeout = timeout
        self._book = book or default_book()
        self._started: datetime | None = None
        self._cancelled = False

    @abstractmethod
    def look(self, trouble: list[str]) -> JobUsage:
        """Ask the service; what it could not say is added to `trouble`."""

    @abstractmethod
    def request_cancel(self) -> None:
        """Ask the service to cancel the job. Errors of the service pass through."""

    def poll(self) -> Poll:
        """Look once: state, usage, ledger, verdict; cancel the job if it is over budget."""
        trouble: list[str] = []
        seen = self.look(trouble)
        self._started = seen.started or self._started
        ended = seen.state == VANISHED or seen.state in self.ended_states
        grew = self._enter(seen, ended)
        spent = self._spent()
        projected = spent if ended else project(spent, 0.0, self.past)
        judgment, reason = self.guard.budget_status(spent, projected)
        if judgment == "over" and not ended and not self._cancelled:
            self._cancel(reason, trouble)
        return Poll(
            state=seen.state,
            spent_usd=spent,
            projected_usd=projected,
            judgment=judgment,
            reason=reason,
            cancelled=self._cancelled,
            trouble="; ".join(trouble),
            grew=grew,
            ended=ended,
            final=ended and seen.final,
        )

    def settle(
        self,
        *,
        bound_seconds: float = 600.0,
        every_seconds: float = 15.0,
        quiet_polls: int = 3,
        sleep: Callable[[float], None] = time.sleep,
    ) -> FinalCost:
        """Wait for the final usage of a job that ended: metrics arrive minutes late.

        Args:
            bound_seconds: give up after this long.
            every_seconds: between polls.
            quiet_polls: as many answers in a row without news mean that nothing more will come.
            sleep: waits.
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
                    "job %s: final metrics did not settle within %.0f s (missing: %s)",
                    self._job.job_id, bound_seconds, missing or "nothing, still changing",
                )  # fmt: skip
                return FinalCost(poll.state, poll.spent_usd, complete=False)
            sleep(every_seconds)
            waited += every_seconds

    def has_expected(self) -> bool:
        """Whether the ledger has what every job uses: without it the usage is not complete."""
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
        return {each.resource: each.quantity for each in entries if each.job == job.job_id}

    def _spent(self) -> Decimal:
        job = self._job
        entries = self._ledger.entries(pipeline=job.pipeline, run_id=job.run_id, stage=job.stage)
        return total(each for each in entries if each.attempt == job.attempt).amount

    def _cancel(self, reason: str, trouble: list[str]) -> None:
        try:
            self.request_cancel()
        except (*TRANSIENT, exceptions.NotFound) as error:
            # Tried again at the next poll.
            trouble.append(f"cancel: {short(error)}")
            return
        self._cancelled = True
        log.warning("job %s: %s", self._job.job_id, reason)


def short(error: Exception) -> str:
    """One line of a service's error."""
    text = " ".join(str(getattr(error, "message", "") or error).split())
    return f"{type(error).__name__}: {text}"[:200]
