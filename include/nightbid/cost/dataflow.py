"""What a Dataflow job costs, read from the service's own metrics while it runs.

The metrics arrive late, are missing from some answers, appear twice, and now and then go down; a
job may vanish. Usage only grows, so the largest value seen of each metric is the usage; the
ledger keeps it, and a watcher that is started anew goes on from there.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import grpc  # type: ignore[import-untyped]
from google.api_core import exceptions
from google.cloud import dataflow_v1beta3 as dataflow
from google.cloud.dataflow_v1beta3.services.jobs_v1_beta3.transports import (
    JobsV1Beta3GrpcTransport,
)
from google.cloud.dataflow_v1beta3.services.metrics_v1_beta3.transports import (
    MetricsV1Beta3GrpcTransport,
)

from nightbid.cost.ledger import Ledger, price_entries, total
from nightbid.cost.pricing import PriceBook, default_book, exact
from nightbid.cost.watch import Breaker, Judgement
from nightbid.workspace import Workspace

log = logging.getLogger(__name__)

SERVICE = "dataflow_batch"
VANISHED = "VANISHED"
ENDED = frozenset({"DONE", "FAILED", "CANCELLED", "UPDATED", "DRAINED", VANISHED})
TRANSIENT = (
    exceptions.ResourceExhausted,
    exceptions.ServiceUnavailable,
    exceptions.DeadlineExceeded,
    exceptions.InternalServerError,
    exceptions.Aborted,
    exceptions.Unknown,
    exceptions.Cancelled,
)
EXPECTED = frozenset({"vcpu_hour", "memory_gb_hour"})
"""Every job that ran used these: without them the metrics are not complete."""

HOUR = Decimal(3600)
TIERS = ((Decimal(250), Decimal("0.25")), (Decimal(4870), Decimal("0.5")))
"""Volume in GB → weight in the bill, from the first GB of a job on; the rest counts in full.

https://cloud.google.com/dataflow/pricing, data processed by Dataflow Shuffle.
"""

UNITS: dict[str, tuple[str, Decimal]] = {
    "TotalVcpuTime": ("vcpu_hour", HOUR),
    "TotalMemoryUsage": ("memory_gb_hour", HOUR * 1024),
    "TotalPdUsage": ("hdd_gb_hour", HOUR),
    "TotalSsdUsage": ("ssd_gb_hour", HOUR),
    "TotalGpuTime": ("gpu_hour", HOUR),
    "BillableShuffleDataProcessed": ("shuffle_gb", Decimal(1)),
}
"""Metric → resource, and how many of the metric's units make one of ours.

The service counts vCPU- and GPU-seconds, MB-seconds of memory, GB-seconds of disk, GB of shuffle.
"""


def billable_shuffle_gb(total_gb: Decimal) -> Decimal:
    """Weigh a job's shuffled volume as the bill does."""
    billable, left = Decimal(0), total_gb
    for volume, weight in TIERS:
        part = min(left, volume)
        billable += part * weight
        left -= part
    return billable + left


def resources_of(metrics: Iterable[dataflow.MetricUpdate]) -> dict[str, Decimal]:
    """Billable resources in one answer of the metrics service.

    Tentative, nameless, negative and non-numeric values are left out; of a metric that comes
    twice the larger counts.
    """
    values: dict[str, Decimal] = {}
    for update in metrics:
        if not update.name.origin.startswith("dataflow") or "tentative" in update.name.context:
            continue
        value = update.scalar
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not math.isfinite(value) or value < 0:
            continue
        name = update.name.name
        values[name] = max(values.get(name, Decimal(0)), exact(value))
    found: dict[str, Decimal] = {}
    for name, (resource, divisor) in UNITS.items():
        if name in values:
            found[resource] = values[name] / divisor
    if "shuffle_gb" not in found and "TotalShuffleDataProcessed" in values:
        found["shuffle_gb"] = billable_shuffle_gb(values["TotalShuffleDataProcessed"])
    return found


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


@dataclass(frozen=True)
class Clients:
    """The two services that are asked."""

    metrics: dataflow.MetricsV1Beta3Client
    jobs: dataflow.JobsV1Beta3Client

    @classmethod
    def connect(cls, endpoint: str | None = None) -> Clients:
        """Connect to Google, or without encryption to an emulator at `host:port`."""
        if endpoint is None:
            return cls(dataflow.MetricsV1Beta3Client(), dataflow.JobsV1Beta3Client())
        channel = grpc.insecure_channel(endpoint)
        return cls(
            dataflow.MetricsV1Beta3Client(transport=MetricsV1Beta3GrpcTransport(channel=channel)),
            dataflow.JobsV1Beta3Client(transport=JobsV1Beta3GrpcTransport(channel=channel)),
        )


@dataclass(frozen=True)
class Poll:
    """What one look at a job told."""

    state: str
    """`RUNNING`, `DONE`, … as the service says, `VANISHED`, or `UNKNOWN` if it did not answer."""
    spent_usd: Decimal
    """By the attempt so far, as in the ledger."""
    judgement: Judgement
    reason: str
    """One line where the judgement is not ok."""
    cancelled: bool
    """Whether the service took our request to cancel."""
    trouble: str
    """Why some of it could not be read this time."""
    grew: bool
    """Whether the ledger learned something."""

    @property
    def ended(self) -> bool:
        """Whether the job will consume no more."""
        return self.state in ENDED


@dataclass(frozen=True)
class FinalCost:
    """Cost of a job that ended."""

    state: str
    spent_usd: Decimal
    complete: bool
    """Whether the final metrics came in time; if not, the cost is what was seen."""


class JobMeter:
    """Enters a job's usage in the ledger, poll by poll, and cancels it over its budget.

    Args:
        job: which.
        workspace: whose ledger.
        clients: of the service.
        breaker: the budget.
        timeout: seconds for one call.
        book: prices.
    """

    def __init__(
        self,
        job: Job,
        workspace: Workspace,
        clients: Clients,
        breaker: Breaker,
        *,
        timeout: float = 30.0,
        book: PriceBook | None = None,
    ) -> None:
        self._job = job
        self._ledger = Ledger(workspace)
        self._clients = clients
        self.breaker = breaker
        self._timeout = timeout
        self._book = book or default_book()
        self._started: datetime | None = None
        self._cancelled = False

    def poll(self) -> Poll:
        """Look once: state, metrics, ledger, verdict; cancel the job if it is over budget."""
        trouble: list[str] = []
        # The state first: metrics read after the end are then of the whole job.
        state = self._state(trouble)
        grew = False
        if state != VANISHED:
            grew = self._enter(self._metrics(trouble), state)
        spent = self._spent()
        judgement, reason = self.breaker.judge(spent)
        if judgement == "over" and state not in ENDED and not self._cancelled:
            self._cancel(reason, trouble)
        return Poll(state, spent, judgement, reason, self._cancelled, "; ".join(trouble), grew)

    def settle(
        self,
        *,
        bound_seconds: float = 600.0,
        every_seconds: float = 15.0,
        quiet_polls: int = 3,
        sleep: Callable[[float], None] = time.sleep,
    ) -> FinalCost:
        """Wait for the final metrics of a job that ended: they arrive minutes late.

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
            known = self._known()
            if quiet >= quiet_polls and known.keys() >= EXPECTED:
                return FinalCost(poll.state, poll.spent_usd, complete=True)
            if waited >= bound_seconds:
                missing = ", ".join(sorted(EXPECTED - known.keys())) or "nothing, still changing"
                log.warning(
                    "job %s: final metrics did not settle within %.0f s (missing: %s)",
                    self._job.job_id, bound_seconds, missing,
                )  # fmt: skip
                return FinalCost(poll.state, poll.spent_usd, complete=False)
            sleep(every_seconds)
            waited += every_seconds

    def _state(self, trouble: list[str]) -> str:
        request = dataflow.GetJobRequest(
            project_id=self._job.project, location=self._job.location, job_id=self._job.job_id
        )
        try:
            job = self._clients.jobs.get_job(request, timeout=self._timeout, retry=None)
        except exceptions.NotFound:
            return VANISHED
        except TRANSIENT as error:
            trouble.append(f"state: {_short(error)}")
            return "UNKNOWN"
        # proto-plus answers a datetime, whatever the stubs say.
        created: Any = job.create_time
        if created and created.timestamp() > 0:
            self._started = datetime.fromtimestamp(created.timestamp(), UTC)
        return str(job.current_state.name.removeprefix("JOB_STATE_"))

    def _metrics(self, trouble: list[str]) -> dict[str, Decimal]:
        request = dataflow.GetJobMetricsRequest(
            project_id=self._job.project, location=self._job.location, job_id=self._job.job_id
        )
        try:
            answer = self._clients.metrics.get_job_metrics(
                request, timeout=self._timeout, retry=None
            )
        except exceptions.NotFound as error:
            trouble.append(f"metrics: {_short(error)}")
            return {}
        except TRANSIENT as error:
            trouble.append(f"metrics: {_short(error)}")
            return {}
        return resources_of(answer.metrics)

    def _enter(self, seen: dict[str, Decimal], state: str) -> bool:
        known = self._known()
        news = {name: value for name, value in seen.items() if value > known.get(name, Decimal(0))}
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
                state=state.lower() if state in ENDED else "running",
                service=SERVICE,
                job=job.job_id,
                book=self._book,
            )
        )
        return True

    def has_expected(self) -> bool:
        """Whether the ledger has what every job uses: without it the metrics are not complete."""
        return self._known().keys() >= EXPECTED

    def _known(self) -> dict[str, Decimal]:
        job = self._job
        entries = self._ledger.entries(pipeline=job.pipeline, run_id=job.run_id, stage=job.stage)
        return {each.resource: each.quantity for each in entries if each.job == job.job_id}

    def _spent(self) -> Decimal:
        job = self._job
        entries = self._ledger.entries(pipeline=job.pipeline, run_id=job.run_id, stage=job.stage)
        return total(each for each in entries if each.attempt == job.attempt).amount

    def _cancel(self, reason: str, trouble: list[str]) -> None:
        request = dataflow.UpdateJobRequest(
            project_id=self._job.project,
            location=self._job.location,
            job_id=self._job.job_id,
            job=dataflow.Job(requested_state=dataflow.JobState.JOB_STATE_CANCELLED),
        )
        try:
            self._clients.jobs.update_job(request, timeout=self._timeout, retry=None)
        except (*TRANSIENT, exceptions.NotFound) as error:
            # Tried again at the next poll.
            trouble.append(f"cancel: {_short(error)}")
            return
        self._cancelled = True
        log.warning("job %s: %s", self._job.job_id, reason)


def _short(error: exceptions.GoogleAPICallError) -> str:
    return f"{type(error).__name__}: {error.message}"[:200]
