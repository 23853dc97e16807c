"""Spends a budget evenly by dual descent on its multiplier.

    bid = v / e^λ;  after each auction  λ ← max(0, λ + η · (spend / ρ − 1))

with ρ the budget per auction. The bid never exceeds the remaining budget. Balseiro and Gur,
Learning in Repeated Auctions with Budgets, Management Science 2019; the exponential form is of
arXiv 2302.08530.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numba import njit

from nightbid.bidding.auctions import Auctions, Rules
from nightbid.bidding.checks import Floats, at_least_zero
from nightbid.bidding.replay import AuctionResults, replay, rule_arguments, settle
from nightbid.errors import ConfigError


@njit
def _pace(values, target, step, log, price, floor, first, ties, down, budget, over):  # type: ignore[no-untyped-def]
    rows = len(values)
    won = np.zeros(rows, np.bool_)
    paid = np.zeros(rows, np.float64)
    floored = len(floor) > 0
    spent = 0.0
    for row in range(rows):
        bid = min(values[row] / np.exp(log), budget - spent)
        if down:
            bid = np.floor(bid)
        wins, pays = settle(bid, price[row], floor[row] if floored else 0.0, first, ties)
        if wins:
            won[row] = True
            paid[row] = pays
            spent += pays
        log = max(0.0, log + step * (pays / target - 1.0))
    return won, paid, log


@dataclass(frozen=True)
class DualPacing:
    """Scales values by a multiplier that follows the spend."""

    value_per_click: float
    step: float = 5e-4
    """Step size η."""
    log_multiplier: float = 0.0
    """λ at the start: that of the day before, if known."""
    per: float = 1000.0

    @classmethod
    def fit(
        cls, auctions: Auctions, pctr: Floats, rules: Rules, value_per_click: float,
        *, step: float = 5e-4, highest: float = 30.0,
    ) -> DualPacing:  # fmt: skip
        """Start from the constant λ that would have spent the budget on earlier auctions.

        Args:
            auctions: Auctions of earlier days.
            pctr: [rows], predicted click probabilities.
            rules: Auction rules, with the budget for this number of auctions.
            value_per_click: Value of a click, in money.
            step: Step size η.
            highest: Largest λ to consider.

        Raises:
            ConfigError: There is no budget.
        """
        if rules.budget is None:
            raise ConfigError("pacing needs a budget", hint="set a budget, or bid truthfully")
        unlimited = replace(rules, budget=None)
        value = rules.per * value_per_click * np.asarray(pctr)
        low, high = 0.0, highest
        if replay(auctions, value, unlimited).cost <= rules.budget:
            high = 0.0
        while high - low > 1e-6:
            middle = (low + high) / 2
            if replay(auctions, value / np.exp(middle), unlimited).cost > rules.budget:
                low = middle
            else:
                high = middle
        return cls(value_per_click, step, high, rules.per)

    def run(
        self, auctions: Auctions, pctr: Floats, rules: Rules, *, expected: int | None = None
    ) -> AuctionResults:
        """Bid in the auctions.

        Args:
            auctions: Auctions in order of time.
            pctr: [rows], predicted click probabilities.
            rules: Auction rules with a budget, which is never exceeded, whatever `rules.stop` is.
            expected: Number of auctions that the budget is for; None: as many as given.

        Raises:
            ConfigError: There is no budget.
        """
        return self.run_on(auctions, pctr, rules, expected=expected)[0]

    def run_on(
        self, auctions: Auctions, pctr: Floats, rules: Rules, *, expected: int | None = None
    ) -> tuple[AuctionResults, float]:
        """Like `run`, but also return the final λ for the next day to start from."""
        if rules.budget is None:
            raise ConfigError("pacing needs a budget", hint="set a budget, or bid truthfully")
        values = at_least_zero("values", self.per * self.value_per_click * np.asarray(pctr))
        won, paid, last = _pace(
            values,
            rules.budget / (expected or len(auctions)),
            self.step,
            self.log_multiplier,
            *rule_arguments(auctions, rules),
        )
        return AuctionResults(won, paid, len(auctions)), float(last)
