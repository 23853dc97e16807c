"""Entries of the ledger: observed usage of an attempt, and how observations are merged.

Usage only grows, so the usage of an attempt is the largest quantity observed per key (pipeline,
run, stage, attempt, job, service, resource). Late, repeated, stale and out-of-order observations
therefore merge to the same result, wherever they are stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime
from decimal import Decimal

from pydantic import BaseModel, ConfigDict

MACHINE = "machine"
"""Service name of your own machine."""
SURENESS = {"running": 0, "killed": 1}
"""State → reliability, if observers differ on how an attempt ended; all other states, which the
attempt itself reports, are the most reliable."""
Key = tuple[str, str, str, int, str, str, str]


class LedgerEntry(BaseModel):
    """Usage of one resource by one attempt, and its cost."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pipeline: str
    run_id: str
    stage: str
    attempt: int
    service: str
    resource: str
    """Resource, named after its unit: `vcpu_hour`, `memory_gb_hour`, …"""
    job: str = ""
    """Id of a cloud job, so that two jobs of an attempt are both counted; empty: no job."""
    quantity: Decimal
    cost_here: Decimal
    """Cost where it ran: at the local rate, or at the cloud price for a cloud job."""
    cost_cloud: Decimal
    """Cost of the same usage at the cloud price."""
    currency: str
    started: datetime
    state: str = "running"
    """`running`, or how the attempt ended: `done`, `failed`, `killed` (its samples stopped), or the
    state of a cloud job as the service names it."""

    @property
    def key(self) -> Key:
        """Key whose usage is counted only once."""
        return (
            self.pipeline, self.run_id, self.stage, self.attempt,
            self.job, self.service, self.resource,
        )  # fmt: skip

    @property
    def attempt_key(self) -> tuple[str, str, str, int]:
        """Attempt that the entry belongs to: (pipeline, run, stage, attempt)."""
        return self.pipeline, self.run_id, self.stage, self.attempt

    @property
    def day(self) -> date:
        """Day (UTC) to which the cost is assigned."""
        return self.started.astimezone(UTC).date()


def fold(entries: Iterable[LedgerEntry]) -> list[LedgerEntry]:
    """Merge entries to one per key, with its largest quantity and surest state, oldest first."""
    newest: dict[Key, LedgerEntry] = {}
    for entry in entries:
        other = newest.get(entry.key)
        if other is None:
            newest[entry.key] = entry
            continue
        larger = max(entry, other, key=lambda entry: entry.quantity)
        surest = max(entry, other, key=lambda entry: SURENESS.get(entry.state, 2))
        newest[entry.key] = larger.model_copy(update={"state": surest.state})
    # The usage of a stage's cloud jobs replaces the stage's own estimate of it.
    metered = {entry.attempt_key for entry in newest.values() if entry.job}
    merged = [
        entry
        for entry in newest.values()
        if entry.job or entry.service == MACHINE or entry.attempt_key not in metered
    ]
    return sorted(merged, key=lambda entry: (entry.started, entry.key))
