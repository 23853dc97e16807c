"""Linear bidding: bid = b₀ · pCTR / base rate.

Perlich et al., Bid Optimizing and Inventory Scoring in Targeted Online Advertising, KDD 2012.
"""

from __future__ import annotations

from dataclasses import dataclass

from nightbid.bidding.checks import Floats


@dataclass(frozen=True)
class Linear:
    """bid = b₀ · pCTR / base rate."""

    base_bid: float
    base_rate: float
    """Mean predicted click rate of the days that it was fitted on."""

    def bids(self, pctr: Floats) -> Floats:
        """Return one bid per prediction; float64 [rows]."""
        return pctr * self.base_bid / self.base_rate
