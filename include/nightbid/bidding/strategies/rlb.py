"""Spends a budget over a known number of auctions by dynamic programming.

With t auctions and budget b left, m the distribution of the market price and θ the mean predicted
click rate, the expected number of further clicks is V(0, b) = 0 and

    V(t, b) = V(t−1, b) + Σ over δ ≤ a of m(δ) · (θ + V(t−1, b−δ) − V(t−1, b))

where a is the largest price δ ≤ b with θ + V(t−1, b−δ) − V(t−1, b) ≥ 0. The bid of an auction is
that largest price with its own prediction instead of θ.

Cai et al., Real-Time Bidding by Reinforcement Learning in Display Advertising, WSDM 2017
(arXiv 1701.02490). As there, auctions are divided into episodes, each with its share of the budget;
what an episode does not spend is added to the next.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from nightbid.bidding.auctions import Auctions, Rules
from nightbid.bidding.checks import Floats, probabilities
from nightbid.bidding.landscape import empirical, known_prices
from nightbid.bidding.replay import AuctionResults, rule_arguments, settle
from nightbid.counts import counted
from nightbid.errors import ConfigError

CELLS = 20_000_000
"""Maximum size of the value table, in cells."""
EPISODES = (1000, 500, 200, 100, 50, 20)
"""Episode lengths in auctions; the longest whose table is small enough is used."""


@dataclass(frozen=True)
class Rlb:
    """Values of the remaining budget and the resulting bids. Prices are whole units."""

    values: Floats
    """[auctions left + 1, budget left + 1], expected clicks."""
    most_price: int

    @classmethod
    def fit(cls, auctions: Auctions, pctr: Floats, rules: Rules) -> Rlb:
        """Compute the value table from earlier auctions.

        Args:
            auctions: Auctions of earlier days.
            pctr: [rows], predicted click probabilities.
            rules: Second-price rules, with the budget for this number of auctions.

        Raises:
            ConfigError: There is no budget, the rules are first price, or the table is too large.
            DataError: A prediction is outside 0..1.
        """
        if rules.budget is None:
            raise ConfigError("rlb needs a budget", hint="set a budget")
        if rules.pricing != "second":
            raise ConfigError(
                f"rlb is for second-price auctions, not {rules.pricing} price",
                hint="use pacing in first price",
            )
        theta = float(probabilities("pctr", pctr).mean())
        price = auctions.price
        if auctions.floor is not None:
            price = np.maximum(price, auctions.floor)
        whole = np.ceil(price)
        cdf = empirical(whole, most=known_prices(whole)).cdf
        mass = np.diff(cdf, prepend=0.0)
        for length in EPISODES:
            # Twice the share: an episode may inherit the last one's unspent budget.
            budget = int(np.ceil(2 * rules.budget / len(auctions) * length))
            if (length + 1) * (budget + 1) <= CELLS:
                return cls(_table(theta, mass, length, budget), len(mass) - 1)
        raise ConfigError(
            f"the budget is {rules.budget:,.0f} units of price for"
            f" {counted(len(auctions), 'auction')}: its table of values would be too large",
            hint="use pacing, which needs none",
        )

    def run(self, auctions: Auctions, pctr: Floats, rules: Rules) -> AuctionResults:
        """Bid in later auctions."""
        assert rules.budget is not None
        price, floor, first, ties, _, budget, _ = rule_arguments(auctions, rules)
        won, paid = _run(
            probabilities("pctr", pctr), price, floor, first, ties, budget, self.values,
            self.most_price,
        )  # fmt: skip
        return AuctionResults(won, paid, len(auctions))


@njit
def _table(theta, mass, auctions, budget):  # type: ignore[no-untyped-def]
    values = np.zeros((auctions + 1, budget + 1))
    for left in range(1, auctions + 1):
        before = values[left - 1]
        for money in range(budget + 1):
            gained = 0.0
            for price in range(min(money, len(mass) - 1) + 1):
                more = theta + before[money - price] - before[money]
                if more < 0:
                    break
                gained += mass[price] * more
            values[left, money] = before[money] + gained
    return values


@njit
def _run(pctr, price, floor, first, ties, budget, values, most_price):  # type: ignore[no-untyped-def]
    rows = len(pctr)
    won = np.zeros(rows, np.bool_)
    paid = np.zeros(rows, np.float64)
    length, top = values.shape[0] - 1, values.shape[1] - 1
    spent = 0.0
    for row in range(rows):
        start = row - row % length
        end = min(start + length, rows)
        # Budget shares up to the end of this episode, minus the spend.
        money = min(budget * end / rows - spent, float(top))
        after = values[end - row - 1]
        whole = int(money)
        bid = -1
        low, high = 0, min(whole, most_price)
        while low <= high:  # the future cost of a price grows with the price
            middle = (low + high) // 2
            if pctr[row] + after[whole - middle] - after[whole] >= 0:
                bid, low = middle, middle + 1
            else:
                high = middle - 1
        if bid < 0 or pctr[row] <= 0:
            continue
        # A bid that must exceed the price is one unit higher.
        offer = float(bid) if ties else float(bid) + 1.0
        wins, pays = settle(offer, price[row], floor[row] if len(floor) > 0 else 0.0, first, ties)
        if wins and spent + pays <= budget * end / rows:
            won[row] = True
            paid[row] = pays
            spent += pays
    return won, paid
