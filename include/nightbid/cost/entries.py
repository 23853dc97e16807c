"""One line of the ledger: what an attempt used by now, and how many such lines fold into the truth.

Usage only grows, so what an attempt used is the largest quantity seen of each (pipeline, run,
stage, attempt, job, service, resource). Late, repeated, stale and out-of-order observations all
fold into the same answer, wherever they are kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime
from decimal import Decimal

from pydantic import BaseModel, ConfigDict

MACHINE = "machine"
"""Service name of your own machine."""
SURENESS = {"running": 0, "killed": 1}
"""Observers of an attempt may differ on how it ended; it knows best itself."""
Key = tuple[str, str, str, int, str, str, str]


class LedgerEntry(BaseModel):
    """What one attempt consumed of one resource, and what that costs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pipeline: str
    run_id: str
    stage: str
    attempt: int
    service: str
    resource: str
    """What a unit is: `vcpu_hour`, `memory_gb_hour`, …"""
    job: str = ""
    """Id of a cloud job, so that two jobs of one attempt are both counted."""
    quantity: Decimal
    cost_here: Decimal
    """Paid where it ran: the local rate, or the cloud price for a cloud job."""
    cost_cloud: Decimal
    """The same usage at the cloud's price."""
    currency: str
    started: datetime
    state: str = "running"
    """`running` while it is observed; then how the attempt ended: `done`, `failed`, `killed` (its
    samples just ceased), or a cloud job's own word."""

    @property
    def key(self) -> Key:
        """What may be counted only once."""
        return (
            self.pipeline, self.run_id, self.stage, self.attempt,
            self.job, self.service, self.resource,
        )  # fmt: skip

    @property
    def attempt_key(self) -> tuple[str, str, str, int]:
        """The attempt that it belongs to."""
        return self.pipeline, self.run_id, self.stage, self.attempt

    @property
    def day(self) -> date:
        """Day (UTC) that the cost belongs to."""
        return self.started.astimezone(UTC).date()


def fold(entries: Iterable[LedgerEntry]) -> list[LedgerEntry]:
    """Each key once, with the largest quantity and the surest state seen of it, oldest first."""
    newest: dict[Key, LedgerEntry] = {}
    for entry in entries:
        other = newest.get(entry.key)
        if other is None:
            newest[entry.key] = entry
            continue
        larger = max(entry, other, key=lambda each: each.quantity)
        surest = max(entry, other, key=lambda each: SURENESS.get(each.state, 2))
        newest[entry.key] = larger.model_copy(update={"state": surest.state})
    # A stage's own estimate of its cloud work gives way to what its jobs turn out to use.
    metered = {entry.attempt_key for entry in newest.values() if entry.job}
    kept = [
        entry
        for entry in newest.values()
        if entry.job or entry.service == MACHINE or entry.attempt_key not in metered
    ]
    return sorted(kept, key=lambda entry: (entry.started, entry.key))
