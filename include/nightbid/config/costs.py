"""Limits on the cost of a night: the typed `budget` block."""

from __future__ import annotations

from decimal import Decimal
from difflib import get_close_matches
from typing import Annotated

from pydantic import AfterValidator, Field

from nightbid.config.base import Block
from nightbid.night.stages import STAGES


def _known_stage(name: str) -> str:
    if name not in STAGES:
        close = get_close_matches(name, STAGES, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"stages: {', '.join(STAGES)}"
        raise ValueError(f"no stage called {name!r}, {hint}")
    return name


StageName = Annotated[str, AfterValidator(_known_stage)]
MoneyLimit = Annotated[Decimal, Field(gt=0)]


class Budget(Block):
    """Limits in USD, at cloud prices for the same usage. Null means unlimited.

    Failed and repeated attempts count. Work that exceeds a limit is canceled and leaves no
    output; see `nightbid.cost.budget`.
    """

    stage_usd: dict[StageName, MoneyLimit] = Field(default_factory=dict)
    """Stage → limit on all of its attempts in one run."""
    run_usd: MoneyLimit | None = None
    """Limit on one run: all stages and attempts together."""
    day_usd: MoneyLimit | None = None
    """Limit on the pipeline per calendar day (UTC), by the time at which the work runs."""
    month_usd: MoneyLimit | None = None
    """Limit on the pipeline per calendar month (UTC)."""
    warn_at: float = Field(default=0.8, gt=0, le=1)
    """Share of a limit at which a warning is logged."""
