"""Meters the cost of a Dataflow job, from the service's own metrics while it runs.

The metrics arrive late, are missing from some responses, appear twice and sometimes decrease; a job
may vanish. Usage only grows, so the largest value of each metric seen is the usage. The ledger
keeps it, and a restarted watcher continues from there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import grpc  # type: ignore[import-untyped]
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import dataflow_v1beta3 as dataflow

from nightbid.cost.budget import BudgetGuard
from nightbid.cost.money import exact
from nightbid.cost.price_book import PriceBook
from nightbid.jobs.meter import (
    TRANSIENT,
    UNKNOWN,
    VANISHED,
    JobMeter,
    JobUsage,
    MeteredJob,
    short,
)
from nightbid.storage.workspace import Workspace

SERVICE = "dataflow_batch"

HOUR = Decimal(3600)
TIERS = ((Decimal(250), Decimal("0.25")), (Decimal(4870), Decimal("0.5")))
"""(Volume in GB, weight in the bill), from the first GB of a job; the rest has weight 1.

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
"""Metric → (resource, number of the metric's units per unit of the resource).

The service reports vCPU and GPU seconds, MB-seconds of memory, GB-seconds of disk, GB of shuffle.
"""


def billable_shuffle_gb(total_gb: Decimal) -> Decimal:
    """Convert a job's shuffled volume in GB to the billed volume."""
    billable, left = Decimal(0), total_gb
    for volume, weight in TIERS:
        part = min(left, volume)
        billable += part * weight
        left -= part
    return billable + left


def resources_of(metrics: Iterable[dataflow.MetricUpdate]) -> dict[str, Decimal]:
    """Extract the billable resources from a response of the metrics service.

    Tentative, unnamed, negative and non-numeric values are ignored; of duplicate metrics the larger
    one counts.
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
    quantities: dict[str, Decimal] = {}
    for name, (resource, divisor) in UNITS.items():
        if name in values:
            quantities[resource] = values[name] / divisor
    if "shuffle_gb" not in quantities and "TotalShuffleDataProcessed" in values:
        quantities["shuffle_gb"] = billable_shuffle_gb(values["TotalShuffleDataProcessed"])
    return quantities


@dataclass(frozen=True)
class Clients:
    """Clients of the Dataflow services for metrics, jobs and messages."""

    metrics: dataflow.MetricsV1Beta3Client
    jobs: dataflow.JobsV1Beta3Client
    messages: dataflow.MessagesV1Beta3Client

    @classmethod
    def connect(cls, endpoint: str | None = None) -> Clients:
        """Connect to Google, or to an emulator.

        Args:
            endpoint: Address of an emulator: `http://host:port` for REST, `https://host:port` for
                gRPC with TLS, `host:port` for gRPC without TLS; None: Google.
        """
        return cls(
            _client(dataflow.MetricsV1Beta3Client, endpoint),
            _client(dataflow.JobsV1Beta3Client, endpoint),
            _client(dataflow.MessagesV1Beta3Client, endpoint),
        )


def _client(kind: Any, endpoint: str | None) -> Any:
    if endpoint is None:
        return kind()
    scheme, _, host = endpoint.rpartition("://")
    credentials = AnonymousCredentials()  # type: ignore[no-untyped-call]
    if scheme == "https":
        return kind(credentials=credentials, client_options={"api_endpoint": host})
    if scheme:
        transport = kind.get_transport_class("rest")
        return kind(transport=transport(host=host, credentials=credentials, url_scheme=scheme))
    transport = kind.get_transport_class("grpc")
    return kind(transport=transport(channel=grpc.insecure_channel(endpoint)))


class DataflowMeter(JobMeter):
    """Follows a Dataflow job by its metrics; see `JobMeter`.

    Args:
        clients: Clients of the service.
    """

    service = SERVICE
    ended_states = frozenset({"DONE", "FAILED", "CANCELLED", "UPDATED", "DRAINED"})
    expected = frozenset({"vcpu_hour", "memory_gb_hour"})

    def __init__(
        self,
        job: MeteredJob,
        workspace: Workspace,
        clients: Clients,
        guard: BudgetGuard,
        *,
        timeout: float = 30.0,
        book: PriceBook | None = None,
    ) -> None:
        super().__init__(job, workspace, guard, timeout=timeout, book=book)
        self._clients = clients

    def look(self, trouble: list[str]) -> JobUsage:
        """Get the state and the metrics of the job."""
        # Get the state first, so that metrics read after the end are those of the whole job.
        state, started = self._state(trouble)
        used = {} if state == VANISHED else self._metrics(trouble)
        return JobUsage(state, used, started)

    def request_cancel(self) -> None:
        """Request the service to cancel the job."""
        request = dataflow.UpdateJobRequest(
            project_id=self._job.project,
            location=self._job.location,
            job_id=self._job.job_id,
            job=dataflow.Job(requested_state=dataflow.JobState.JOB_STATE_CANCELLED),
        )
        self._clients.jobs.update_job(request, timeout=self._timeout, retry=None)

    def _state(self, trouble: list[str]) -> tuple[str, datetime | None]:
        request = dataflow.GetJobRequest(
            project_id=self._job.project, location=self._job.location, job_id=self._job.job_id
        )
        try:
            job = self._clients.jobs.get_job(request, timeout=self._timeout, retry=None)
        except exceptions.NotFound:
            return VANISHED, None
        except TRANSIENT as error:
            trouble.append(f"state: {short(error)}")
            return UNKNOWN, None
        # proto-plus answers a datetime, whatever the stubs say.
        created: Any = job.create_time
        known = created and created.timestamp() > 0
        started = datetime.fromtimestamp(created.timestamp(), UTC) if known else None
        return str(job.current_state.name.removeprefix("JOB_STATE_")), started

    def _metrics(self, trouble: list[str]) -> dict[str, Decimal]:
        request = dataflow.GetJobMetricsRequest(
            project_id=self._job.project, location=self._job.location, job_id=self._job.job_id
        )
        try:
            answer = self._clients.metrics.get_job_metrics(
                request, timeout=self._timeout, retry=None
            )
        except (*TRANSIENT, exceptions.NotFound) as error:
            trouble.append(f"metrics: {short(error)}")
            return {}
        return resources_of(answer.metrics)
