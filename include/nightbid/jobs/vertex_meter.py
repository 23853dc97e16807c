"""Meters the cost of a Vertex AI custom job: its machines for the time that they are allocated.

To submit one:

1. `pools_of(job)` reads the machines out of a CustomJob, `hourly_usd(pools)` prices them: it raises
   PriceError before anything is submitted that could not be priced.
2. After submission `nightbid.jobs.cost_watch.note_job(run, JobNote(…))` writes a note of the job.
   From then on the cost watch of the night (`JobWatch`) polls it with a `TrainingMeter`, records
   its usage in the ledger, and cancels it if over budget. If a later attempt resumes the job and
   notes it again, it stays assigned to the attempt that submitted it.
3. If nothing else watches (on the command line), the waiting loop itself calls
   `JobWatch(run, budget).poll()` until it is empty; two concurrent watchers count nothing twice.
4. The stage returns `training_usage(pools, seconds)` as its Outcome's usage, for the manifest. Once
   the ledger has the usage of the job itself, this estimate no longer counts.

Every replica of every pool costs from the start of the job to its end, even if it is idle, and
whether the job succeeds, fails or is canceled. A job that waits for machines costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from google.api_core import exceptions

from nightbid.cost.budget import BudgetGuard
from nightbid.cost.money import Money, exact
from nightbid.cost.price_book import PriceBook, default_book
from nightbid.cost.pricing import price_lines
from nightbid.jobs.meter import TRANSIENT, UNKNOWN, VANISHED, JobMeter, JobUsage, MeteredJob, short
from nightbid.night.manifest import Usage
from nightbid.storage.workspace import Workspace

if TYPE_CHECKING:
    from google.cloud.aiplatform_v1 import CustomJob, JobServiceClient

SERVICE = "vertex_training"
DEFAULT_DISK = "pd-ssd"
DEFAULT_DISK_GB = 100
"""Disk size of a replica whose pool does not specify a disk, in GB."""
INCLUSIVE_FAMILIES = ("a2-", "a3-", "a4-", "g2-")
"""Prefixes of machine types whose price includes their accelerators."""
CLOCK_MARGIN = timedelta(seconds=10)
"""Age of the recorded usage of a running job, so that differences between clocks below this margin
do not record more than the job has used."""


@dataclass(frozen=True)
class MachinePool:
    """Machines of one type that are allocated for the whole job."""

    machine_type: str
    """Machine type, such as `n1-standard-8`."""
    replicas: int = 1
    accelerator_type: str = ""
    """Accelerator type, such as `NVIDIA_TESLA_T4`; empty: none."""
    accelerators: int = 0
    """Number of accelerators per replica."""
    disk_type: str = DEFAULT_DISK
    disk_gb: int = DEFAULT_DISK_GB
    """Disk size per replica, in GB."""


def pools_of(job: CustomJob) -> tuple[MachinePool, ...]:
    """Get the machines that a custom job requests."""
    return tuple(
        MachinePool(
            machine_type=pool.machine_spec.machine_type,
            replicas=int(pool.replica_count) or 1,
            accelerator_type=(
                pool.machine_spec.accelerator_type.name
                if pool.machine_spec.accelerator_count
                else ""
            ),
            accelerators=int(pool.machine_spec.accelerator_count),
            disk_type=pool.disk_spec.boot_disk_type or DEFAULT_DISK,
            disk_gb=int(pool.disk_spec.boot_disk_size_gb) or DEFAULT_DISK_GB,
        )
        for pool in job.job_spec.worker_pool_specs
        # A pool between two other pools may be empty.
        if pool.machine_spec.machine_type
    )


def resources_of(pools: Iterable[MachinePool], seconds: float | Decimal) -> dict[str, Decimal]:
    """Get the billable units of a job: hours per machine and accelerator type, GB-hours of disk.

    Args:
        pools: Machines of the job.
        seconds: Seconds for which they are allocated.
    """
    hours = exact(seconds) / 3600
    quantities: dict[str, Decimal] = {}

    def add(resource: str, units: int) -> None:
        quantities[resource] = quantities.get(resource, Decimal(0)) + units * hours

    for pool in pools:
        add(f"{pool.machine_type}_hour", pool.replicas)
        add(f"{pool.disk_type}_gb_hour", pool.replicas * pool.disk_gb)
        if pool.accelerator_type and not pool.machine_type.startswith(INCLUSIVE_FAMILIES):
            add(f"{pool.accelerator_type}_hour", pool.replicas * pool.accelerators)
    return {resource: units for resource, units in quantities.items() if units}


def hourly_usd(
    pools: Iterable[MachinePool],
    *,
    option: str = "",
    at: date | None = None,
    book: PriceBook | None = None,
) -> Money:
    """Price one hour of a job, before it is submitted.

    Args:
        pools: Machines of the job.
        option: Purchase option, `spot` or empty.
        at: Day of use; None: today (UTC).
        book: Price book; None: that of the installation.

    Raises:
        PriceError: The price of a machine, accelerator or disk is missing or expired.
    """
    day = at or datetime.now(UTC).date()
    lines = price_lines(
        resources_of(pools, 3600),
        book or default_book(),
        at=day,
        where="cloud",
        service=SERVICE,
        option=option,
    )
    return Money.total(lines.values())


def training_usage(pools: Sequence[MachinePool], seconds: float) -> Usage:
    """Compute the accelerator and wall-clock seconds of a job for the stage's manifest.

    The CPU time of the job is not known from outside; its cost is in the ledger.
    """
    accelerators = sum(pool.replicas * pool.accelerators for pool in pools)
    return Usage(accelerator_seconds=accelerators * seconds, wall_seconds=seconds)


def connect(location: str, endpoint: str | None = None) -> JobServiceClient:
    """Connect to Google in a region, or without TLS to an emulator at `host:port`."""
    # The import takes seconds, so it happens only if a job is followed.
    from google.cloud.aiplatform_v1 import JobServiceClient
    from google.cloud.aiplatform_v1.services.job_service.transports.grpc import (
        JobServiceGrpcTransport,
    )

    if endpoint is None:
        return JobServiceClient(
            client_options={"api_endpoint": f"{location}-aiplatform.googleapis.com"}
        )
    import grpc  # type: ignore[import-untyped]

    return JobServiceClient(
        transport=JobServiceGrpcTransport(channel=grpc.insecure_channel(endpoint))
    )


class TrainingMeter(JobMeter):
    """Follows a custom job by its machines and its age; see `JobMeter`.

    Args:
        client: Client of the service.
        now: Function that returns the current time (UTC).
    """

    service = SERVICE
    ended_states = frozenset({"SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"})

    def __init__(
        self,
        job: MeteredJob,
        workspace: Workspace,
        client: JobServiceClient,
        guard: BudgetGuard,
        *,
        timeout: float = 30.0,
        book: PriceBook | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(job, workspace, guard, timeout=timeout, book=book)
        self._client = client
        self._now = now
        self._name = f"projects/{job.project}/locations/{job.location}/customJobs/{job.job_id}"

    def look(self, trouble: list[str]) -> JobUsage:
        """Get the job, and compute its usage from its machines, start and end."""
        try:
            job = self._client.get_custom_job(name=self._name, timeout=self._timeout, retry=None)
        except exceptions.NotFound:
            return JobUsage(VANISHED)
        except TRANSIENT as error:
            trouble.append(f"state: {short(error)}")
            return JobUsage(UNKNOWN)
        state = str(job.state.name.removeprefix("JOB_STATE_"))
        started, ended = _time(job.start_time), _time(job.end_time)
        over = state in self.ended_states
        if started is None:
            # The job waits for machines, or it ended before it got any.
            return JobUsage(state, final=over)
        until = ended if over else self._now() - CLOCK_MARGIN
        if until is None:
            trouble.append(f"state: {state}, but no end time yet")
            return JobUsage(state, started=started)
        seconds = Decimal(str(max(0.0, (until - started).total_seconds())))
        spot = job.job_spec.scheduling.strategy.name == "SPOT"
        return JobUsage(
            state,
            resources_of(pools_of(job), seconds),
            started,
            final=over,
            option="spot" if spot else "",
        )

    def request_cancel(self) -> None:
        """Request the service to cancel the job."""
        self._client.cancel_custom_job(name=self._name, timeout=self._timeout, retry=None)


def _time(moment: Any) -> datetime | None:
    # proto-plus answers a datetime, whatever the stubs say; an unset one may be the epoch.
    if not moment or moment.timestamp() <= 0:
        return None
    return datetime.fromtimestamp(moment.timestamp(), UTC)
