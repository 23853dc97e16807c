"""What predictions would have earned on the evaluate rows: the typed `replay` block."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from nightbid.config.base import Block


class Replay(Block):
    """Bid the value of each evaluate row and pay the logged market prices.

    Every model bids `value` times its prediction on the very same auctions: the candidate, the
    champion, the baseline and, on simulated logs, the true probabilities. It needs
    `columns.price` and `evaluate.keep_scores`.
    """

    value: float = Field(gt=0, allow_inf_nan=False)
    """Money that one positive label is worth, in the currency of the prices. With
    `columns.value`, a factor on that column: 1 takes it as it is."""
    pricing: Literal["second", "first"] = "second"
    """`second`: the winner pays the market price (or the floor, if higher). `first`: its bid; bids
    are then shaded by the prices of the validate days."""
    wins: Literal[">", ">="] = ">"
    """A bid wins if it is `>` (or `>=`) the market price."""
    per: float = Field(default=1000.0, gt=0, allow_inf_nan=False)
    """Prices are for so many impressions: 1000 for CPM, 1 for single impressions."""
    budget: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Money for the evaluate days; each model's bids are paced to it. Default: no limit."""
    floor: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Replay as if this were the floor of every auction. It needs `columns.competing`: a logged
    price tells nothing of bids below the floor of its day."""
    unusable: float = Field(default=0.01, ge=0, lt=1)
    """Share of rows without a usable price that is left out and counted; more fail the stage."""
