"""Plan of a rehearsal, written at its start and used to resume it."""

from __future__ import annotations

from decimal import Decimal

from pydantic import BaseModel, ConfigDict

from nightbid.partitions import Partition
from nightbid.rehearse.locks import Lock, PinChange


class RehearsalPlan(BaseModel):
    """Plan of a rehearsal. The same command gives the same plan, so it can resume a rehearsal."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    pipeline: str
    date: Partition
    """Newest day of logs."""
    overrides: tuple[str, ...] = ()
    frozen: str
    """Name of the frozen data set that both sides train on."""
    seeds: int
    first_seed: int
    """First seed; the others are the following numbers."""
    margin: float
    """Largest difference in normalized entropy that does not matter."""
    present: dict[str, str]
    """Pins of the present lock."""
    candidate: dict[str, str]
    latency: bool = True
    """Whether the load test is run."""
    bisect: bool = True
    budget_usd: Decimal | None = None
    minutes: float | None = None
    """Minutes after which no further step of the bisection starts; None: no limit."""

    @property
    def changes(self) -> tuple[PinChange, ...]:
        """List the packages that the two locks pin differently."""
        return Lock(self.present).changes(Lock(self.candidate))
