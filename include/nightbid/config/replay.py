"""Replay of the evaluate rows' auctions with bids from predictions: the typed `replay` block."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from nightbid.config.base import Block


class Replay(Block):
    """Replay the auctions of the evaluate rows: bid by prediction, pay the logged market prices.

    Every model bids `value` times its prediction on the very same auctions: the candidate, the
    champion, the baseline and, on simulated logs, the true probabilities. Needs `columns.price` and
    `evaluate.keep_scores`.
    """

    value: float = Field(gt=0)
    """Value of one positive label, in the currency of the prices. With `columns.value`, a factor on
    that column: 1 takes it unchanged."""
    pricing: Literal["second", "first"] = "second"
    """What the winner pays. `second`: the market price (or the floor, if higher). `first`: its own
    bid; bids are then shaded by the prices of the validate days."""
    wins: Literal[">", ">="] = ">"
    """Whether a bid must be above the market price to win (`>`), or may equal it (`>=`)."""
    per: float = Field(default=1000.0, gt=0)
    """Number of impressions that a price is for: 1000 for CPM, 1 for prices of one impression."""
    budget: float | None = Field(default=None, gt=0)
    """Budget of each model for the evaluate days, in the currency of the prices; bids are paced to
    it. Default: no limit."""
    floor: float | None = Field(default=None, ge=0)
    """Floor price to use in every auction instead of the logged one. Needs `columns.competing`: a
    logged price does not show bids below the floor of its day."""
    unusable: float = Field(default=0.01, ge=0, lt=1)
    """Largest share of rows without a usable price. They are left out and counted; a larger share
    fails the stage."""
