"""Creates strategies by name, fitted on earlier auctions, and runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nightbid.bidding.auctions import Auctions, Rules
from nightbid.bidding.checks import Floats
from nightbid.bidding.landscape import fit_half_price
from nightbid.bidding.replay import AuctionResults, replay
from nightbid.bidding.strategies.constant import Constant
from nightbid.bidding.strategies.linear import Linear
from nightbid.bidding.strategies.ortb import Arbitrage, Ortb1, Ortb2
from nightbid.bidding.strategies.pacing import DualPacing
from nightbid.bidding.strategies.pid import Pid
from nightbid.bidding.strategies.rlb import Rlb
from nightbid.bidding.strategies.search import Objective, clicks, profit, search
from nightbid.bidding.strategies.shading import Shading
from nightbid.bidding.strategies.target import CostTarget
from nightbid.bidding.strategies.truthful import Truthful
from nightbid.errors import ConfigError

NAMES = (
    "truthful", "constant", "linear", "ortb1", "ortb2", "arbitrage", "shading", "pacing", "pid",
    "target", "rlb",
)  # fmt: skip
STEPS = 40
"""Number of grid points of a parameter."""
MOST_MEDIAN = 2000
"""Largest median price, in units, for strategies with a table of all prices."""


@dataclass(frozen=True)
class Chosen:
    """A fitted strategy."""

    name: str
    strategy: Any
    base_rate: float

    def run(self, auctions: Auctions, pctr: Floats, rules: Rules) -> AuctionResults:
        """Bid in later auctions."""
        if isinstance(self.strategy, DualPacing | Rlb):
            return self.strategy.run(auctions, pctr, rules)
        if isinstance(self.strategy, Pid):
            base = Linear(self.strategy.first_bid, self.base_rate).bids(pctr)
            return self.strategy.run(auctions, base, rules)
        return replay(auctions, self.strategy.bids(pctr), rules)


def fit(
    name: str,
    earlier: Auctions,
    pctr: Floats,
    rules: Rules,
    *,
    value_per_click: float,
    cost_per_click: float | None = None,
    roi: float | None = None,
    most_pctr: float = 1.0,
) -> Chosen:
    """Fit a strategy on earlier auctions.

    Args:
        name: One of NAMES.
        earlier: Auctions of earlier days. Landscapes need typical prices of some tens to hundreds
            of whole units; see `in_units`.
        pctr: [rows], predicted click probabilities of these auctions.
        rules: Auction rules, with the budget for this number of auctions.
        value_per_click: Value of a click, in money.
        cost_per_click: Target eCPC of `pid` and `target`, in money.
        roi: Target ROI of `target`, as an alternative.
        most_pctr: Largest prediction that shading tabulates.

    Raises:
        ConfigError: The name is unknown, a target is not above 0, or the strategy needs a budget, a
            target, another price rule or a larger unit of price.
    """
    if name not in NAMES:
        raise ConfigError(f"there is no strategy {name!r}", hint=f"use one of {', '.join(NAMES)}")
    for target, amount in (("cost per click", cost_per_click), ("ROI", roi)):
        if amount is not None and not (np.isfinite(amount) and amount > 0):
            raise ConfigError(f"the target {target} is {amount:g}", hint="set a target above 0")
    middle = float(np.median(earlier.price))
    if name in ("ortb1", "arbitrage", "shading", "rlb") and middle > MOST_MEDIAN:
        raise ConfigError(
            f"the median price is {middle:,.0f}, and {name} counts whole units of price",
            hint="do not round bids in so small a unit, or pass prices in a larger one",
        )
    base = float(pctr.mean())
    if base <= 0:
        raise ConfigError("every prediction is 0", hint="choose another column of predictions")
    return Chosen(name, _fitted(name, earlier, pctr, rules, base, value_per_click,
                                cost_per_click, roi, most_pctr), base)  # fmt: skip


def _fitted(
    name: str, earlier: Auctions, pctr: Floats, rules: Rules, base: float, value: float,
    cost_per_click: float | None, roi: float | None, most_pctr: float,
) -> Any:  # fmt: skip
    objective: Objective = clicks if rules.budget is not None else profit(value, rules.per)
    prices = earlier.price

    def best(grid: Floats, make: Callable[[float], Any], by: Objective = objective) -> Any:
        chosen = search(
            [float(value) for value in grid], lambda p: make(p).bids(pctr), earlier, rules, by
        )
        return make(chosen)

    if name == "truthful":
        return Truthful(value, rules.per)
    if name == "constant":
        return best(np.unique(np.quantile(prices, np.linspace(0.01, 1, STEPS))) + 1, Constant)
    middle = max(float(np.median(prices)), 1.0)
    factors = middle * np.geomspace(0.02, 50, STEPS)
    if name == "linear":
        return best(factors, lambda p: Linear(p, base))
    if name == "ortb1":
        half = _half_price(prices, middle)
        return best(factors, lambda p: Ortb1(half, p / base))
    if name == "ortb2":
        return best(np.geomspace(0.01, 100, STEPS), lambda p: Ortb2(middle, value, p, rules.per))
    if name == "arbitrage":
        half = _half_price(prices, middle)
        return best(np.geomspace(0.05, 20, STEPS), lambda p: Arbitrage(half, value, p, rules.per),
                    profit(value, rules.per))  # fmt: skip
    if name == "shading":
        if rules.pricing != "first":
            raise ConfigError(
                "shading is for first-price auctions", hint="bid truthfully in second price"
            )
        return Shading.of_prices(prices, value, most_pctr=most_pctr, rules=rules)
    if name == "pacing":
        return DualPacing.fit(earlier, pctr, rules, value)
    if name == "rlb":
        return Rlb.fit(earlier, pctr, rules)
    if name == "pid":
        if cost_per_click is None:
            raise ConfigError("pid needs a cost per click", hint="set a target eCPC")
        target = cost_per_click * rules.per
        # Gains of the published demonstration, which has a target of 40,000 units.
        gain = 40_000 / target
        return Pid(target, 5e-4 * gain, 1e-6 * gain, 1e-4 * gain, least_bid=0.0, first_bid=middle)
    return CostTarget.fit(
        earlier, pctr, rules, value_per_click=value, cost_per_click=cost_per_click, roi=roi
    )


def _half_price(prices: Floats, middle: float) -> int:
    """Fit the win curve of ORTB 1 where most prices are: it does not follow the rare high ones."""
    most = min(float(prices.max()), 10 * middle)
    return fit_half_price(prices, most=int(4 * middle) + 1, grid=int(most) + 2)


def in_units(auctions: Auctions, rules: Rules, unit: float) -> tuple[Auctions, Rules]:
    """Convert prices to multiples of a unit, such as 0.01; amounts of money stay the same."""
    floor = None if auctions.floor is None else auctions.floor / unit
    budget = None if rules.budget is None else rules.budget / unit
    return (
        replace(auctions, price=auctions.price / unit, floor=floor),
        replace(rules, per=rules.per / unit, budget=budget),
    )


def price_unit(prices: Floats) -> float:
    """Largest power of ten of which the median price is at least 50."""
    middle = float(np.median(prices[prices > 0])) if (prices > 0).any() else 50.0
    unit = 1.0
    while middle / unit < 50 and unit > 1e-9:
        unit /= 10
    while middle / unit >= 500:
        unit *= 10
    return unit
