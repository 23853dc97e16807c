"""What a rehearsal is asked to do; written when it starts, and what a rerun goes on with."""

from __future__ import annotations

from decimal import Decimal

from pydantic import BaseModel, ConfigDict

from nightbid.partitions import Partition
from nightbid.rehearse.locks import Change, Lock


class RehearsalPlan(BaseModel):
    """One rehearsal. The same command gives the same plan, so it goes on where it was killed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    pipeline: str
    date: Partition
    """Newest day of logs."""
    overrides: tuple[str, ...] = ()
    frozen: str
    """Name of the frozen data set that both sides learn from."""
    seeds: int
    first_seed: int
    """Seeds are this one and those that follow."""
    margin: float
    """Largest difference of normalized entropy that does not matter."""
    present: dict[str, str]
    """Pins of the present lock."""
    candidate: dict[str, str]
    latency: bool = True
    """Whether the load test is run."""
    bisect: bool = True
    budget_usd: Decimal | None = None
    minutes: float | None = None
    """Time after which no further step of the bisection begins."""

    @property
    def changes(self) -> tuple[Change, ...]:
        """Packages that the two locks pin differently."""
        return Lock(self.present).changes(Lock(self.candidate))
