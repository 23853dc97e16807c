"""Delta debugging over the lock: finds the smallest set of changes that causes a finding."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from nightbid.errors import BudgetExceeded
from nightbid.rehearse.findings import FindingKind
from nightbid.rehearse.locks import PinChange

BisectOutcome = Literal["reproduced", "absent", "unresolved"]
"""Outcome of a step; `unresolved`: this mix of packages cannot be judged, for example because it
does not start."""
LOG = logging.getLogger(__name__)


class Cause(BaseModel):
    """The package changes that cause a kind of finding."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: FindingKind
    packages: tuple[str, ...]
    """Smallest set of changes that still shows the finding, as `name before → after`."""
    steps: int
    """Number of environments that were tried."""
    finished: bool
    """Whether no smaller set shows it; otherwise `reason` says why the search ended early."""
    reason: str = ""


def smallest(
    changes: Sequence[PinChange], judge: Callable[[tuple[PinChange, ...]], BisectOutcome]
) -> tuple[tuple[PinChange, ...], int, str]:
    """Find a set of changes that reproduces a finding and from which no single one can be removed.

    The algorithm is `ddmin` (Zeller & Hildebrandt 2002). It assumes that all changes together
    reproduce the finding.

    Args:
        changes: All changes.
        judge: Function that tries a set; it is called at most once per set.

    Returns:
        The set, the number of sets tried, and why the set is not the smallest (empty: it is).
    """
    known: dict[frozenset[str], BisectOutcome] = {}

    def reproduces(part: Sequence[PinChange]) -> bool:
        key = frozenset(change.name for change in part)
        if not part or len(part) == len(changes):
            return bool(part)
        if key not in known:
            known[key] = judge(tuple(part))
            LOG.info("%s: %s", ", ".join(map(str, part)), known[key])
        return known[key] == "reproduced"

    current, pieces = list(changes), 2
    try:
        while len(current) > 1:
            size = -(-len(current) // pieces)
            parts = [current[at : at + size] for at in range(0, len(current), size)]
            for part in parts:
                if reproduces(part):
                    current, pieces = part, 2
                    break
            else:
                for part in parts if len(parts) > 2 else []:
                    rest = [change for change in current if change not in part]
                    if reproduces(rest):
                        current, pieces = rest, max(pieces - 1, 2)
                        break
                else:
                    if pieces >= len(current):
                        break
                    pieces = min(2 * pieces, len(current))
    except BudgetExceeded as stopped:
        return tuple(current), len(known), str(stopped)
    return tuple(current), len(known), ""
