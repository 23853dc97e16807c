"""Keeps a key figure (eCPC) at a target with a PID controller of the bids, in rounds.

    φ(r) = P · e(r) + I · Σ e + D · (x(r−2) − x(r−1)),  e(r) = target − x(r−1),  x the eCPC so far
    bid  = max(least, base bid · exp(φ)),  φ within [−2, 5]

Zhang et al., Feedback Control of Real-Time Display Advertising, WSDM 2016. eCPC is
cost / (clicks + 1), so that it is defined before the first click.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from nightbid.bidding.auctions import Auctions, Rules
from nightbid.bidding.checks import Floats
from nightbid.bidding.replay import AuctionResults, replay


@dataclass(frozen=True)
class PidState:
    """Cumulative state of the controller after a round."""

    ecpc: float
    phi: float
    clicks: int
    impressions: int
    cost: float


@dataclass(frozen=True)
class Pid:
    """eCPC control in rounds with equal numbers of auctions."""

    target: float
    """Target eCPC in the unit of prices (money × per)."""
    p: float = 5e-4
    i: float = 1e-6
    d: float = 1e-4
    rounds: int = 40
    low: float = -2.0
    high: float = 5.0
    least_bid: float = 5.0
    first_bid: float = 1000.0
    """Bid of round 0, for exploration."""

    def run(self, auctions: Auctions, base_bids: Floats, rules: Rules) -> AuctionResults:
        """Bid in the auctions with `base_bids`, [rows], times the controller's factor."""
        return self.trace(auctions, base_bids, rules)[0]

    def trace(
        self, auctions: Auctions, base_bids: Floats, rules: Rules
    ) -> tuple[AuctionResults, list[PidState]]:
        """Like `run`, but also return the state after each round.

        A budget of `rules` ends the bidding as in `replay`.
        """
        edges = np.linspace(0, len(auctions), self.rounds + 1).astype(np.int64)
        won, paid = np.zeros(len(auctions), np.bool_), np.zeros(len(auctions))
        history: list[PidState] = []
        clicks, impressions, cost, total_error, entered = 0, 0, 0.0, 0.0, 0
        for at in range(self.rounds):
            rows = slice(edges[at], edges[at + 1])
            phi = 0.0
            if history:
                error = self.target - history[-1].ecpc
                total_error += error
                phi = self.p * error + self.i * total_error
                if len(history) > 1:
                    phi += self.d * (history[-2].ecpc - history[-1].ecpc)
                phi = min(max(phi, self.low), self.high)
                bids = np.maximum(base_bids[rows] * np.exp(phi), self.least_bid)
            else:
                bids = np.full(edges[1] - edges[0], self.first_bid)
            left = None if rules.budget is None else rules.budget - cost
            if left is not None and left <= 0:
                break
            part = auctions.part(rows)
            result = replay(part, bids, replace(rules, budget=left))
            won[rows], paid[rows] = result.won, result.paid
            entered += result.entered
            clicks += int(part.click[result.won].sum())
            impressions += int(result.won.sum())
            cost += result.cost
            history.append(PidState(cost / (clicks + 1), phi, clicks, impressions, cost))
        return AuctionResults(won, paid, entered), history
