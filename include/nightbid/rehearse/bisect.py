"""The smallest set of changed packages that causes a finding: delta debugging over the lock."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from nightbid.errors import BudgetExceeded
from nightbid.rehearse.findings import Kind
from nightbid.rehearse.locks import Change

Outcome = Literal["reproduced", "absent", "unresolved"]
"""Of a step; unresolved: this mixture of packages cannot be judged, for example does not start."""
LOG = logging.getLogger(__name__)


class Cause(BaseModel):
    """What a kind of finding comes from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    packages: tuple[str, ...]
    """`name before → after`: the smallest set that still shows the finding."""
    steps: int
    """Environments that were tried."""
    finished: bool
    """Whether no smaller set does; else the budget ended, and `reason` says so."""
    reason: str = ""


def smallest(
    changes: Sequence[Change], judge: Callable[[tuple[Change, ...]], Outcome]
) -> tuple[tuple[Change, ...], int, str]:
    """Find a set of changes that reproduces a finding and of which no single one can be left out.

    The algorithm is `ddmin` (Zeller & Hildebrandt 2002). All changes together reproduce it.

    Args:
        changes: all of them.
        judge: tries a set; called at most once for each.

    Returns:
        The set, the number of sets tried, and why it is not the smallest (empty: it is).
    """
    known: dict[frozenset[str], Outcome] = {}

    def reproduces(part: Sequence[Change]) -> bool:
        key = frozenset(each.name for each in part)
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
                    rest = [each for each in current if each not in part]
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
