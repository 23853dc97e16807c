"""Replays bids against logged market prices.

`replay` takes one bid per auction, fixed in advance. Strategies that react to the auctions that
they won (pacing, PID) run their own replay with `settle`, the same rule for a single auction.

A log of won impressions contains only auctions that the logging bidder won: a replay can win fewer
of them, but never others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from nightbid.bidding.auctions import Auctions, Rules
from nightbid.bidding.checks import Bools, Floats, at_least_zero
from nightbid.counts import counted
from nightbid.errors import DataError


@dataclass(frozen=True)
class AuctionResults:
    """Result of each auction; every array is [rows]."""

    won: Bools
    paid: Floats
    """Price paid per `Rules.per` impressions; 0 for lost auctions."""
    entered: int
    """Number of auctions with a bid, before the budget ended; without a budget, all of them."""

    @property
    def cost(self) -> float:
        """Sum of the prices paid, in the unit of prices (money × `Rules.per`)."""
        # Summed sequentially, as the running budget is, to get the same rounding.
        return float(np.cumsum(self.paid)[-1]) if len(self.paid) else 0.0


@njit(inline="always")
def settle(bid, price, floor, first, ties):  # type: ignore[no-untyped-def]
    """Decide one auction: whether the bid wins, and the price paid.

    Args:
        bid: Bid per `Rules.per` impressions.
        price: Highest competing bid.
        floor: Minimum price of the seller.
        first: Whether the winner pays its bid.
        ties: Whether a bid equal to the price wins.
    """
    won = bid >= floor and bid > 0 and (bid > price or (ties and bid == price))
    if not won:
        return False, 0.0
    return True, bid if first else max(price, floor)


@njit
def _run(bids, price, floor, first, ties, down, budget, over):  # type: ignore[no-untyped-def]
    rows = len(bids)
    won = np.zeros(rows, np.bool_)
    paid = np.zeros(rows, np.float64)
    floored = len(floor) > 0
    spent = 0.0
    for row in range(rows):
        bid = bids[row]
        if not (bid >= 0.0 and bid < np.inf):
            return won, paid, -1
        if down:
            bid = np.floor(bid)
        wins, pays = settle(bid, price[row], floor[row] if floored else 0.0, first, ties)
        if wins and (over or spent + pays <= budget):
            won[row] = True
            paid[row] = pays
            spent += pays
        if over and spent >= budget:
            return won, paid, row + 1
    return won, paid, rows


def replay(auctions: Auctions, bids: Floats, rules: Rules) -> AuctionResults:
    """Replay fixed bids.

    Args:
        auctions: Auctions in order of time; budgets are spent in this order.
        bids: [rows], bids per `rules.per` impressions; 0 means no bid.
        rules: Rules of winning, pricing and rounding, and the budget.

    Raises:
        DataError: Bids are missing, infinite or negative, or their number differs from the
            auctions'.
    """
    bids = np.asarray(bids, np.float64)
    if bids.shape != auctions.price.shape:
        raise DataError(f"{counted(len(bids), 'bid')} for {counted(len(auctions), 'auction')}")
    won, paid, entered = _run(bids, *rule_arguments(auctions, rules))
    if entered < 0:
        # The loop found an invalid bid: raise an error that counts them.
        at_least_zero("bids", bids)
    return AuctionResults(won, paid, int(entered))


def rule_arguments(
    auctions: Auctions, rules: Rules
) -> tuple[Floats, Floats, bool, bool, bool, float, bool]:
    """Prices, floors and rules in the form that compiled loops take."""
    floor = np.zeros(0) if auctions.floor is None else auctions.floor
    return (
        auctions.price,
        floor,
        rules.pricing == "first",
        rules.wins == ">=",
        rules.rounding == "down",
        np.inf if rules.budget is None else float(rules.budget),
        rules.stop == "after",
    )
