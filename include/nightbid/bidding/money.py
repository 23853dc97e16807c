"""Computes a replay's spend, value, surplus and rates, with confidence intervals.

Intervals resample users (`nightbid.evaluation.bootstrap`): rows of one user are not independent.
From five days on they also resample days (the pigeonhole bootstrap of Owen 2007), since users
behave similarly on one day. With fewer days, the variance between days cannot be estimated. Where
wins and prices depend on earlier rows (budgets, pacing), they are not recomputed. If the true click
probability is known, expected outcomes replace the drawn clicks, which makes the intervals several
times narrower.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from nightbid.bidding.auctions import Auctions
from nightbid.bidding.checks import Floats, at_least_zero
from nightbid.bidding.replay import AuctionResults
from nightbid.counts import counted
from nightbid.errors import DataError
from nightbid.evaluation.bootstrap import Resampling, bounds

HOURS = 24
LEAST_DAYS = 5
"""Minimum number of days to resample them."""
COMPARED = ("value", "spend", "surplus", "expected_value", "expected_surplus")


@dataclass(frozen=True)
class Earnings:
    """Returns of each auction, in money; every array is [rows], 0 for lost auctions."""

    impressions: Floats
    clicks: Floats
    conversions: Floats | None
    """Number of conversions; None if they are not logged."""
    spend: Floats
    value: Floats
    """Value of the clicks (or conversions) that happened."""
    expected_clicks: Floats | None
    """Expected clicks by the true probabilities; None if these are unknown."""
    expected_value: Floats | None
    hour: npt.NDArray[np.int64] | None
    auctions: int
    entered: int

    @classmethod
    def of(
        cls,
        auctions: Auctions,
        result: AuctionResults,
        *,
        value: float | Floats,
        per: float = 1000.0,
        expected: float | None = None,
    ) -> Earnings:
        """Compute the returns of a replay.

        Args:
            auctions: Auctions that were replayed.
            result: Won auctions and the prices paid.
            value: Value of a click in money; one number, or [rows].
            per: Number of impressions that prices are for.
            expected: Expected value of a click before it happens, if `value` is [rows] and known
                only for clicks; None: `value`.

        Raises:
            DataError: Values are missing or negative, or their number differs from the auctions'.
        """
        worth = at_least_zero("value", value)
        if worth.ndim and len(worth) != len(auctions):
            raise DataError(
                f"{counted(len(worth), 'value')} for {counted(len(auctions), 'auction')}"
            )
        won = result.won.astype(np.float64)
        true = auctions.true_probability
        return cls(
            impressions=won,
            clicks=won * auctions.click,
            conversions=None if auctions.conversion is None else won * auctions.conversion,
            spend=result.paid / per,
            value=won * auctions.click * worth,
            expected_clicks=None if true is None else won * true,
            expected_value=None
            if true is None
            else won * true * (worth if expected is None else expected),
            hour=auctions.hour,
            auctions=len(auctions),
            entered=result.entered,
        )

    def columns(self) -> dict[str, Floats]:
        """Amounts per row that can be summed, by name."""
        columns = {
            "impressions": self.impressions,
            "clicks": self.clicks,
            "spend": self.spend,
            "value": self.value,
            "surplus": self.value - self.spend,
        }
        if self.conversions is not None:
            columns["conversions"] = self.conversions
        if self.expected_value is not None and self.expected_clicks is not None:
            columns["expected_clicks"] = self.expected_clicks
            columns["expected_value"] = self.expected_value
            columns["expected_surplus"] = self.expected_value - self.spend
        return columns

    def summary(self) -> dict[str, Any]:
        """Totals and rates; a rate with denominator 0 is None."""
        total = {name: float(column.sum()) for name, column in self.columns().items()}
        summary: dict[str, Any] = {
            "auctions": self.auctions,
            "entered": self.entered,
            **total,
            "win_rate": _ratio(total["impressions"], self.auctions),
            "ecpc": _ratio(total["spend"], total["clicks"]),
            "ecpm": _ratio(1000 * total["spend"], total["impressions"]),
            "roi": _ratio(total["value"] - total["spend"], total["spend"]),
        }
        for name in ("impressions", "clicks", "conversions"):
            summary[name] = round(summary[name]) if name in summary else None
        if self.hour is not None:
            summary["spend_by_hour"] = np.bincount(self.hour, self.spend, HOURS).tolist()
        return summary


def _ratio(above: float, below: float) -> float | None:
    return above / below if below else None


@dataclass(frozen=True)
class ResampledDays:
    """Number of times that each day is drawn in each replicate."""

    day: npt.NDArray[np.int64]
    """[rows], index of each row's day: 0, 1, …"""
    weights: Floats
    """[days, replicates]; each replicate draws as many days as there are."""

    @classmethod
    def of(
        cls, days: npt.NDArray[np.integer] | None, replicates: int, seed: int
    ) -> ResampledDays | None:
        """Draw the days of every replicate; None if there are fewer than `LEAST_DAYS`."""
        if days is None:
            return None
        known, day = np.unique(days, return_inverse=True)
        if len(known) < LEAST_DAYS:
            return None
        even = np.full(len(known), 1 / len(known))
        drawn = np.random.default_rng(seed).multinomial(len(known), even, replicates)
        return cls(day.astype(np.int64), drawn.T.astype(np.float64))


@dataclass(frozen=True)
class Spread:
    """Total of each amount in every replicate: name → [replicates]."""

    totals: dict[str, Floats]

    @classmethod
    def of(
        cls,
        earnings: Earnings,
        users: npt.NDArray[np.integer],
        resampling: Resampling,
        days: ResampledDays | None = None,
    ) -> Spread:
        """Resample the users and the days.

        Args:
            earnings: Returns of one bidder.
            users: [rows], user hashes, int64.
            resampling: Resampling that includes these users; the same for all bidders, so that
                differences are paired.
            days: Resampled days of the rows; None: days are not resampled.
        """
        user = np.searchsorted(resampling.users, users)
        size = len(resampling.users)
        columns = earnings.columns()
        weights = resampling.weights.astype(np.float64)

        def drawn(rows: slice | npt.NDArray[np.bool_]) -> Floats:
            sums = [np.bincount(user[rows], column[rows], size) for column in columns.values()]
            return np.asarray(sparse.csr_matrix(sums) @ weights)

        if days is None:
            totals = drawn(slice(None))
        else:
            totals = sum(
                (drawn(days.day == day) * weight for day, weight in enumerate(days.weights)),
                np.zeros((len(columns), weights.shape[1])),
            )
        return cls(dict(zip(columns, totals, strict=True)))

    def interval(self, name: str) -> dict[str, float | None]:
        """95% interval of a total."""
        low, high = bounds(self.totals[name])
        return {"low": low, "high": high}

    def difference(self, other: Spread, name: str) -> dict[str, float | None]:
        """95% interval of the difference between this bidder's total and the other's."""
        low, high = bounds(self.totals[name] - other.totals[name])
        return {"low": low, "high": high}


def compare(
    earned: dict[str, Earnings],
    users: npt.NDArray[np.integer],
    *,
    replicates: int,
    seed: int,
    days: npt.NDArray[np.integer] | None = None,
) -> dict[str, Any]:
    """Summarize several bidders on the same auctions, with paired differences.

    Args:
        earned: Bidder → returns.
        users: [rows], user hashes, int64.
        replicates: Number of bootstrap replicates.
        seed: Random seed of the bootstrap.
        days: [rows], day numbers; from `LEAST_DAYS` days on, days are resampled too. None: they are
            not.

    Returns:
        `bidders`: name → summary with `intervals`; `differences`: name → amount → value, low and
            high of the first bidder's amount minus this one's.
    """
    resampling = Resampling.of(users.astype(np.int64), replicates, seed)
    drawn = ResampledDays.of(days, replicates, seed)
    spreads = {
        name: Spread.of(earnings, users, resampling, drawn) for name, earnings in earned.items()
    }
    summaries: dict[str, Any] = {}
    for name, earnings in earned.items():
        names = [amount for amount in COMPARED if amount in spreads[name].totals]
        summaries[name] = {
            **earnings.summary(),
            "intervals": {amount: spreads[name].interval(amount) for amount in names},
        }
    first = next(iter(earned))
    differences: dict[str, Any] = {}
    for name in list(earned)[1:]:
        differences[name] = {
            amount: {
                "value": summaries[first][amount] - summaries[name][amount],
                **spreads[first].difference(spreads[name], amount),
            }
            for amount in COMPARED
            if amount in spreads[first].totals and amount in spreads[name].totals
        }
    return {
        "bidders": summaries,
        "differences": differences,
        "users": len(resampling.users),
        "resampled_days": 0 if drawn is None else len(drawn.weights),
    }
