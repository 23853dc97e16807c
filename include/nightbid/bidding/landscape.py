"""Distributions of market prices: the probability that a bid wins.

There are four ways to estimate it from earlier auctions:

    empirical       every price is known
    log-logistic    P(price ≤ b) = 1 / (1 + (b / α)^−β), by maximum likelihood
    half price      P(price ≤ b) = b / (b + c), by least squares (the win curve of ORTB 1)
    Kaplan–Meier    a lost auction only implies that the price was at least the bid

Kaplan and Meier, Nonparametric Estimation from Incomplete Observations, JASA 1958, as used for
bids by Zhang et al., Bid-aware Gradient Descent for Unbiased Learning with Censored Data, KDD 2016.
It assumes that bids are independent of prices. Bids that follow the predicted click rate are not,
so estimate it per slice of predictions (`by_slice`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from nightbid.bidding.checks import Bools, Floats, Ints, at_least_zero
from nightbid.counts import counted
from nightbid.errors import DataError

OUTLIER = 100
"""Prices above this many times the median are not tabulated: one of them would take gigabytes."""


@dataclass(frozen=True)
class Landscape:
    """Distribution over whole prices from 0, as a table."""

    cdf: Floats
    """[prices], P(price ≤ b) for each price b."""
    complete: bool = True
    """Whether larger prices never occur; False if they may be hidden by censoring."""
    rows: int = 0

    @property
    def known_to(self) -> int:
        """Largest price at which the distribution is known."""
        return len(self.cdf) - 1

    def win(self, bids: npt.ArrayLike, *, wins: str = ">") -> Floats:
        """Probability that each bid wins.

        Args:
            bids: Bids in whole units of price; fractions are dropped.
            wins: `>`: a bid must exceed the price; `>=`: it must reach the price.

        Raises:
            DataError: A bid is in the range that is unknown due to censoring.
        """
        whole = np.floor(at_least_zero("bids", bids)).astype(np.int64)
        at = whole if wins == ">=" else whole - 1
        if not self.complete and at.size and at.max() > self.known_to:
            raise DataError(
                f"a bid of {whole.max():,} is above {self.known_to + 1:,}, the limit of known "
                "prices",
                hint="bid higher on a random share of auctions first, or bid less",
            )
        table = np.concatenate([[0.0], self.cdf])
        probabilities: Floats = table[np.minimum(at, self.known_to) + 1]
        return probabilities


def known_prices(prices: npt.ArrayLike) -> int:
    """Largest whole price to tabulate: `OUTLIER` times the median, or the largest one."""
    whole = _whole(prices)
    return int(min(whole.max(), OUTLIER * max(float(np.median(whole)), 1.0)))


def empirical(prices: npt.ArrayLike, *, most: int | None = None) -> Landscape:
    """Distribution of known prices: the share at or below each price.

    Args:
        prices: [rows], market prices.
        most: Largest price to tabulate; auctions with a higher one count as lost. None: all prices.

    Raises:
        DataError: There are no prices, or some are missing or negative.
    """
    whole = _whole(prices)
    rows = len(whole)
    if most is not None:
        whole = whole[whole <= most]
    counts = np.bincount(whole, minlength=1)
    return Landscape(np.cumsum(counts) / rows, rows=rows)


def fit_half_price(prices: npt.ArrayLike, *, most: int = 321, grid: int = 323) -> int:
    """Return the c of b / (b + c) with the least squared error to the share of prices ≤ b.

    Args:
        prices: [rows], market prices.
        most: Largest c to try; the smallest is 1.
        grid: Number of prices to compare, from 0 to grid − 1.
    """
    cdf = empirical(prices, most=grid - 1).cdf
    known = np.full(grid, cdf[-1])
    known[: len(cdf)] = cdf
    at = np.arange(grid, dtype=np.float64)
    loss = [((known - at / (at + tried)) ** 2).sum() for tried in range(1, most + 1)]
    return int(np.argmin(loss)) + 1


@dataclass(frozen=True)
class LogLogistic:
    """P(price ≤ b) = 1 / (1 + (b / scale)^−shape)."""

    scale: float
    """Median price."""
    shape: float

    def landscape(self, most: int) -> Landscape:
        """Tabulate the distribution for whole prices 0 … most."""
        return Landscape(self.at(np.arange(most + 1)), complete=False)

    def at(self, prices: npt.ArrayLike) -> Floats:
        """P(price ≤ b) of each price."""
        values = np.asarray(prices, np.float64)
        with np.errstate(divide="ignore"):
            return np.where(values > 0, 1 / (1 + (values / self.scale) ** -self.shape), 0.0)


def fit_log_logistic(
    prices: npt.ArrayLike, *, won: npt.ArrayLike | None = None, bids: npt.ArrayLike | None = None
) -> LogLogistic:
    """Fit by maximum likelihood; a lost auction contributes P(price ≥ its bid).

    Args:
        prices: [rows], market prices; ignored for lost auctions.
        won: [rows], whether the auction was won; None: all were.
        bids: [rows], own bids; required if some auctions were lost.

    Raises:
        DataError: Fewer than two distinct positive prices are known.
    """
    known = np.ones(np.shape(prices), np.bool_) if won is None else np.asarray(won, np.bool_)
    seen = at_least_zero("prices", np.asarray(prices, np.float64)[known])
    # A price of 0 has no logarithm; use half a unit, which is midway between 0 and 1.
    seen = np.log(np.maximum(seen, 0.5))
    values, counts = np.unique(seen, return_counts=True)
    if len(values) < 2:
        raise DataError(
            f"only {counted(len(values), 'different price')} known",
            hint="a distribution needs at least two",
        )
    lost = np.zeros(0) if bids is None else np.asarray(bids, np.float64)[~known]
    hidden, times = np.unique(np.log(np.maximum(lost, 0.5)), return_counts=True)

    def loss(theta: Floats) -> float:
        shape = np.exp(theta[1])
        z = shape * (values - theta[0])
        likely = np.log(shape) - z - 2 * np.logaddexp(0, -z)
        survived = -np.logaddexp(0, shape * (hidden - theta[0]))
        return -float(counts @ likely + times @ survived) / len(known)

    start = [float(np.average(values, weights=counts)), 0.0]
    solution = minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12})
    return LogLogistic(float(np.exp(solution.x[0])), float(np.exp(solution.x[1])))


def kaplan_meier(
    bids: npt.ArrayLike, won: npt.ArrayLike, prices: npt.ArrayLike, *, wins: str = ">"
) -> Landscape:
    """Estimate from won auctions with prices and lost auctions with bids only.

    Args:
        bids: [rows], own bids.
        won: [rows], whether the auction was won.
        prices: [rows], market prices; ignored for lost auctions (may be NaN).
        wins: `>`: a bid must exceed the price to win; `>=`: it must reach the price.

    Raises:
        DataError: No auction was won, so no price is known.
    """
    shown = np.asarray(won, np.bool_)
    own = np.floor(at_least_zero("bids", bids)).astype(np.int64)
    if not shown.any():
        raise DataError(
            f"none of {counted(len(shown), 'auction')} was won: no prices are known",
            hint="bid higher on a random share of auctions",
        )
    paid = _whole(np.asarray(prices, np.float64)[shown])
    # An auction is informative at price z only if its bid would have won at z: it is at risk at z
    # if its price is known to be z or more and its bid could have revealed z.
    top = int(max(paid.max(), own.max())) + 1
    lost = own[~shown] - (0 if wins == ">=" else 1)
    events = np.bincount(paid, minlength=top + 1)[: top + 1]
    limits = np.bincount(lost[lost >= 0], minlength=top + 1)[: top + 1]
    at_risk = (events + limits)[::-1].cumsum()[::-1]
    reached = np.flatnonzero(at_risk > 0)
    known = int(reached.max())
    steps = 1 - events[: known + 1] / np.maximum(at_risk[: known + 1], 1)
    survival = np.cumprod(steps)
    return Landscape(1 - survival, complete=bool(survival[-1] == 0), rows=len(shown))


def by_slice(
    slices: Ints, bids: Floats, won: Bools, prices: Floats, *, wins: str = ">"
) -> dict[int, Landscape]:
    """Kaplan–Meier estimates per slice (such as a decile of predictions, or a placement).

    Raises:
        DataError: A slice has no won auction.
    """
    landscapes = {}
    for value in np.unique(slices):
        rows = slices == value
        try:
            landscapes[int(value)] = kaplan_meier(bids[rows], won[rows], prices[rows], wins=wins)
        except DataError as error:
            raise DataError(error.what, where=f"slice {value}", hint=error.hint) from error
    return landscapes


def mixture(slices: dict[int, Landscape]) -> Landscape:
    """Mixture of all slices, weighted by rows, up to the largest price that is known in all."""
    known = min(
        (landscape.known_to for landscape in slices.values() if not landscape.complete),
        default=max(landscape.known_to for landscape in slices.values()),
    )
    total = sum(landscape.rows for landscape in slices.values())
    at = np.arange(known + 1)
    cdf = sum(
        landscape.rows / total * landscape.win(at, wins=">=") for landscape in slices.values()
    )
    return Landscape(
        np.asarray(cdf),
        complete=all(landscape.complete for landscape in slices.values()),
        rows=total,
    )


def _whole(prices: npt.ArrayLike) -> Ints:
    values = at_least_zero("prices", prices)
    if not values.size:
        raise DataError("no prices are known", hint="choose a day with won auctions")
    return np.floor(values).astype(np.int64)
