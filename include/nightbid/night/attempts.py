"""Records of a run's attempts at its stages, and which of them count."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Literal

from nightbid.night.manifest import Usage, Verdict
from nightbid.night.sealed import Sealed
from nightbid.night.stages import readers_of

REQUEST = "request"
"""Takes the place of a stage in the record of a run that could not be started."""
APPROVE = "approve"
"""The task in which a user decides about the promotion; it is recorded like a stage."""
ARRIVAL = "arrival"
"""The task that waits for the newest day of logs; it is recorded like a stage."""


class StageRecord(Sealed):
    """Result of one attempt at one stage."""

    stage: str
    attempt: int = 1
    state: Literal["done", "stopped", "failed"]
    uri: str = ""
    reused: bool = False
    started: dt.datetime
    seconds: float
    usage: Usage = Usage()
    verdict: Verdict | None = None
    summary: str = ""
    error: str = ""
    by: str = ""
    """User who made the decision, if the stage asks for one."""
    number: int = 0
    """Position among the run's records, from 1; 0 in older records, which sort first."""
    revision: int = 0
    """Revision of the run's head under which the record was made.

    A record that a stalled process writes late sorts before those made under newer settings."""


def current(records: Iterable[StageRecord]) -> dict[str, StageRecord]:
    """Return each stage's newest record, unless one of the stage's inputs was rebuilt since.

    A run can be rerun with other rows, settings or code. Until a later stage runs again, its
    earlier record describes outputs that are no longer the run's.

    Args:
        records: All attempts of a run, oldest first.

    Returns:
        Stage → record.
    """
    by_stage: dict[str, StageRecord] = {}
    for record in records:
        before = by_stage.get(record.stage)
        if before is not None and before.uri != record.uri:
            readers = readers_of(record.stage)
            for name in (*readers, *([APPROVE] if "promote" in readers else [])):
                by_stage.pop(name, None)
        by_stage[record.stage] = record
    return by_stage


def order(record: StageRecord) -> tuple[int, int, dt.datetime]:
    """Sort key of the records of a run, oldest first."""
    return record.revision, record.number, record.started
