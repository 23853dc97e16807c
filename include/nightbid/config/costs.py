"""What a night may cost: the typed `budget` block."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import Field

from nightbid.config.base import Block

Limit = Annotated[Decimal, Field(gt=0)]


class Budget(Block):
    """Limits in USD, at the price of the same usage in the cloud. None means unlimited.

    Failed and repeated attempts count. Work that passes a limit is cancelled and leaves no
    output; see `nightbid.cost.watch`.
    """

    stage_usd: dict[str, Limit] = Field(default_factory=dict)
    """Stage → limit of all attempts at it within one run."""
    run_usd: Limit | None = None
    day_usd: Limit | None = None
    """Of the pipeline, per calendar day (UTC) on which the work is done."""
    month_usd: Limit | None = None
    """Of the pipeline, per calendar month (UTC)."""
    warn_at: float = Field(default=0.8, gt=0, le=1)
    """Share of a limit from which a warning is given."""
