"""Truthful bidding, the value of the impression: bid = per · V · pCTR.

Vickrey, Counterspeculation, Auctions, and Competitive Sealed Tenders, 1961: in a second-price
auction without a budget no other bid earns more.
"""

from __future__ import annotations

from dataclasses import dataclass

from nightbid.bidding.checks import Floats


@dataclass(frozen=True)
class Truthful:
    """bid = per · V · pCTR."""

    value_per_click: float
    per: float = 1000.0
    """Number of impressions that bids are for."""

    def bids(self, pctr: Floats) -> Floats:
        """Return one bid per prediction; float64 [rows]."""
        return self.per * self.value_per_click * pctr
