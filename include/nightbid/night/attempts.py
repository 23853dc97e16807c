"""The attempts of one run at its stages, and which of them count."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Literal

from nightbid.night.manifest import Usage, Verdict
from nightbid.night.sealed import Sealed
from nightbid.night.stages import readers_of

REQUEST = "request"
"""Stands for a stage in the record of a run that could not be begun."""
APPROVE = "approve"
"""The task in which a person decides on the promotion; it is recorded like a stage."""
ARRIVAL = "arrival"
"""The task that waits for the newest day of logs; it is recorded like a stage."""


class StageRecord(Sealed):
    """What one attempt at one stage did."""

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
    """Person who decided, where one was asked."""
    number: int = 0
    """Position among the records of the run, from 1; 0 in older ones, which come first."""
    revision: int = 0
    """Of the run's head that it was made under: what a process that stood still records late comes
    before what was made under newer settings."""


def current(records: Iterable[StageRecord]) -> dict[str, StageRecord]:
    """Give each stage's newest record, unless an input of the stage was made again since.

    A run may be run again, with other rows, settings or code. Until a later stage has its turn,
    what it said before is about outputs that no longer are those of the run.

    Args:
        records: All attempts of a run, oldest first.

    Returns:
        Stage → record.
    """
    found: dict[str, StageRecord] = {}
    for record in records:
        before = found.get(record.stage)
        if before is not None and before.uri != record.uri:
            readers = readers_of(record.stage)
            for name in (*readers, *([APPROVE] if "promote" in readers else [])):
                found.pop(name, None)
        found[record.stage] = record
    return found


def order(record: StageRecord) -> tuple[int, int, dt.datetime]:
    """Sort key of the records of a run, oldest first."""
    return record.revision, record.number, record.started
