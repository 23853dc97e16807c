"""What a night may cost: the typed `budget` block."""

from __future__ import annotations

from decimal import Decimal

from pydantic import Field

from nightbid.config.base import Block


class Budget(Block):
    """Limits in USD, at the price of the same usage in the cloud. None means unlimited."""

    run_usd: Decimal | None = Field(default=None, gt=0)
    stage_usd: dict[str, Decimal] = Field(default_factory=dict)
    warn_at: float = Field(default=0.8, gt=0, le=1)
