"""Maximizes value under a budget and a target cost per click (or ROI), with two duals.

    bid = (v + q · C · pCTR) / (p + q),  p ≥ 0 of the budget, q ≥ 0 of the target

Yang et al., Bid Optimization by Multivariable Control in Display Advertising, KDD 2019
(arXiv 1905.10928). The duals are those of the linear program over earlier auctions

    max Σ x·v   s.t.  Σ x·price ≤ budget,  Σ x·price ≤ C · Σ x·pCTR,  0 ≤ x ≤ 1

They are found by bisection: the spend falls in p, and the slack of the target grows in q.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nightbid.bidding.auctions import Auctions, Rules
from nightbid.bidding.checks import Floats, at_least_zero, probabilities
from nightbid.errors import ConfigError

MOST = 2.0**40
STEPS = 40


@dataclass(frozen=True)
class CostTarget:
    """Bids computed from two fitted duals. Prices and bids are per `per` impressions."""

    value_per_click: float
    cost_per_click: float
    """Target cost per click C, in money."""
    budget_dual: float
    target_dual: float
    per: float = 1000.0

    @classmethod
    def fit(
        cls, auctions: Auctions, pctr: Floats, rules: Rules, *, value_per_click: float,
        cost_per_click: float | None = None, roi: float | None = None,
    ) -> CostTarget:  # fmt: skip
        """Find the duals on earlier auctions.

        Args:
            auctions: Auctions of earlier days.
            pctr: [rows], predicted click probabilities.
            rules: Second-price rules, with the budget for this number of auctions.
            value_per_click: Value of a click, in money.
            cost_per_click: Target eCPC, in money; None: `roi` is the target.
            roi: Minimum value per money spent, as an alternative; 1 spends exactly the value.

        Raises:
            ConfigError: Not exactly one target is given, it is not above 0, or the rules are first
                price, where these bids would overpay.
            DataError: A prediction is outside 0..1.
        """
        if (cost_per_click is None) == (roi is None):
            raise ConfigError(
                "a cost target needs either a cost per click or an ROI", hint="set one of them"
            )
        if rules.pricing != "second":
            raise ConfigError(
                f"cost targets are for second-price auctions, not {rules.pricing} price",
                hint="use shading with pacing in first price",
            )
        limit = cost_per_click if cost_per_click is not None else value_per_click / float(roi or 0)
        if not (np.isfinite(limit) and limit > 0):
            raise ConfigError(f"the target is {limit:g}", hint="set a target above 0")
        chance = probabilities("pctr", pctr)
        value = at_least_zero("values", rules.per * value_per_click * chance)
        price = auctions.price
        if auctions.floor is not None:
            price = np.maximum(price, auctions.floor)
        allowed = rules.per * limit * chance
        budget = np.inf if rules.budget is None else rules.budget
        p, q = _duals(value, allowed, price, budget)
        return cls(value_per_click, float(limit), p, q, rules.per)

    def bids(self, pctr: Floats) -> Floats:
        """Return one bid per prediction; float64 [rows]."""
        total = self.budget_dual + self.target_dual
        value = self.per * self.value_per_click * pctr
        if total == 0:
            # Neither constraint binds: bid the maximum in every auction with a positive value.
            return np.where(value > 0, np.finfo(np.float64).max, 0.0)
        return (value + self.target_dual * self.per * self.cost_per_click * pctr) / total


def _duals(value: Floats, allowed: Floats, price: Floats, budget: float) -> tuple[float, float]:
    """Optimal p and q: each is 0, or its constraint holds with equality."""

    def totals(p: float, q: float) -> tuple[float, float]:
        bought = value + q * allowed > (p + q) * price
        spend = float(price[bought].sum())
        return spend, float(allowed[bought].sum()) - spend

    def best_p(q: float) -> float:
        return _bisect(lambda p: totals(p, q)[0] <= budget)

    q = _bisect(lambda q: totals(best_p(q), q)[1] >= 0)
    return best_p(q), q


def _bisect(holds: Callable[[float], bool]) -> float:
    """Smallest x ≥ 0 from which on `holds` is true, to 12 digits; at most 2^40."""
    if holds(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while not holds(high) and high < MOST:
        low, high = high, 2 * high
    for _ in range(STEPS):
        middle = (low + high) / 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high
