"""First-price shading: the most profitable bid under a known distribution of market prices.

    bid(v) = argmax over b of (v − b) · P(b wins)

The bids are tabulated by whole values v, so that a bid is a lookup. Zhou et al., An Efficient Deep
Distribution Network for Bid Shading in First-Price Auctions, KDD 2021, state the same objective.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nightbid.bidding.auctions import Rules
from nightbid.bidding.checks import Floats
from nightbid.bidding.landscape import Landscape, empirical, known_prices

BLOCK = 1024


@dataclass(frozen=True)
class Shading:
    """Bids from a table, by value."""

    table: Floats
    """[values], bid for each whole value 0, 1, 2 …; larger values use the last entry."""
    value_per_click: float
    per: float = 1000.0

    @classmethod
    def fit(
        cls, landscape: Landscape, value_per_click: float, *, most: float, per: float = 1000.0,
        wins: str = ">",
    ) -> Shading:  # fmt: skip
        """Compute the table.

        Args:
            landscape: Market prices of earlier days, known up to the largest bid to consider.
            value_per_click: Value of a click, in money.
            most: Largest value (`per` × value per click × pCTR) to tabulate.
            per: Number of impressions that prices are for.
            wins: `>` or `>=`, as in `Rules.wins`.
        """
        chance = landscape.win(np.arange(landscape.known_to + 2), wins=wins)
        bids = np.arange(len(chance), dtype=np.float64)
        values = np.arange(int(np.ceil(most)) + 1, dtype=np.float64)
        table = np.zeros(len(values))
        for start in range(0, len(values), BLOCK):
            part = values[start : start + BLOCK]
            gain = (part[:, None] - bids) * chance
            table[start : start + BLOCK] = gain.argmax(axis=1)
        return cls(table, value_per_click, per)

    @classmethod
    def of_prices(
        cls, prices: Floats, value_per_click: float, *, most_pctr: float, rules: Rules
    ) -> Shading:
        """Compute the table from the market prices of earlier days.

        Args:
            prices: [rows], market prices in whole units.
            value_per_click: Value of a click, in money.
            most_pctr: Largest prediction to tabulate.
            rules: Auction rules.
        """
        known = known_prices(prices)
        most = min(rules.per * value_per_click * most_pctr, 20.0 * known)
        landscape = empirical(prices, most=known)
        return cls.fit(landscape, value_per_click, most=most, per=rules.per, wins=rules.wins)

    def bids(self, pctr: Floats) -> Floats:
        """Return one bid per prediction; float64 [rows]."""
        value = self.per * self.value_per_click * pctr
        return self.table[np.minimum(value.astype(np.int64), len(self.table) - 1)]
