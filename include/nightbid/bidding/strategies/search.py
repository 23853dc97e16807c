"""Chooses a parameter by replaying earlier auctions: the first on a grid with the best result."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from nightbid.bidding.auctions import Auctions, Rules
from nightbid.bidding.checks import Floats
from nightbid.bidding.replay import AuctionResults, replay
from nightbid.errors import ConfigError

Objective = Callable[[Auctions, AuctionResults], float]


def clicks(auctions: Auctions, result: AuctionResults) -> float:
    """Number of clicks won."""
    return float(auctions.click[result.won].sum())


def profit(value_per_click: float, per: float = 1000.0) -> Objective:
    """Value of the clicks won minus their cost."""

    def objective(auctions: Auctions, result: AuctionResults) -> float:
        return clicks(auctions, result) * value_per_click - result.cost / per

    return objective


def search(
    grid: Iterable[float],
    bids: Callable[[float], Floats],
    auctions: Auctions,
    rules: Rules,
    objective: Objective,
) -> float:
    """Return the first parameter of `grid` with the greatest objective.

    Args:
        grid: Parameters to try, in order; ties go to the earlier one.
        bids: Parameter → one bid per auction.
        auctions: Auctions of earlier days, in the order to replay them.
        rules: Auction rules, with the budget that the parameter is chosen for.
        objective: Function to maximize.

    Raises:
        ConfigError: The grid is empty.
    """
    best, at = -np.inf, None
    for parameter in grid:
        reached = objective(auctions, replay(auctions, bids(parameter), rules))
        if reached > best:
            best, at = reached, parameter
    if at is None:
        raise ConfigError("the grid of parameters is empty", hint="pass at least one parameter")
    return at
