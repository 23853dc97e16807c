"""What a replay earned: spend, value, surplus and their rates, with intervals.

Intervals resample users (`nightbid.evaluation.bootstrap`): rows of one user are not independent.
From five days on they resample days, too (the pigeonhole bootstrap of Owen 2007): what all users do
on a day is alike. Fewer days do not tell how days differ.
Where wins and prices depend on earlier rows (budgets, pacing), they are taken as they came.
Where the true probability of a click is known, expected outcomes replace the drawn clicks, which
narrows the intervals severalfold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from nightbid.bidding.auctions import Auctions
from nightbid.bidding.checks import Floats, at_least_zero
from nightbid.bidding.replay import Replay
from nightbid.errors import DataError
from nightbid.evaluation.bootstrap import Resampling, bounds

HOURS = 24
LEAST_DAYS = 5
"""Fewer days are not resampled."""
COMPARED = ("value", "spend", "surplus", "expected_value", "expected_surplus")


@dataclass(frozen=True)
class Earnings:
    """What each auction brought, in money. Arrays are [rows], 0 where lost."""

    impressions: Floats
    clicks: Floats
    conversions: Floats | None
    """Where they are logged."""
    spend: Floats
    value: Floats
    """Of the clicks (or conversions) that happened."""
    expected_clicks: Floats | None
    """By the true probabilities, where known."""
    expected_value: Floats | None
    hour: npt.NDArray[np.int64] | None
    auctions: int
    entered: int

    @classmethod
    def of(
        cls,
        auctions: Auctions,
        result: Replay,
        *,
        value: float | Floats,
        per: float = 1000.0,
        expected: float | None = None,
    ) -> Earnings:
        """Value a replay.

        Args:
            auctions: What was replayed.
            result: Who won, and the prices paid.
            value: Money that a click is worth; one for all, or [rows].
            per: Prices are for so many impressions.
            expected: Money that a click is worth before it happens, where `value` is [rows] and
                known with the click only; default: `value`.

        Raises:
            DataError: values are missing or negative, or not one per auction.
        """
        worth = at_least_zero("value", value)
        if worth.ndim and len(worth) != len(auctions):
            raise DataError(f"there are {len(worth):,} values for {len(auctions):,} auctions")
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
        """The amounts that can be summed over rows, by name."""
        found = {
            "impressions": self.impressions,
            "clicks": self.clicks,
            "spend": self.spend,
            "value": self.value,
            "surplus": self.value - self.spend,
        }
        if self.conversions is not None:
            found["conversions"] = self.conversions
        if self.expected_value is not None and self.expected_clicks is not None:
            found["expected_clicks"] = self.expected_clicks
            found["expected_value"] = self.expected_value
            found["expected_surplus"] = self.expected_value - self.spend
        return found

    def summary(self) -> dict[str, Any]:
        """Totals and rates; a rate without a denominator is None."""
        total = {name: float(column.sum()) for name, column in self.columns().items()}
        found: dict[str, Any] = {
            "auctions": self.auctions,
            "entered": self.entered,
            **total,
            "win_rate": _ratio(total["impressions"], self.auctions),
            "ecpc": _ratio(total["spend"], total["clicks"]),
            "ecpm": _ratio(1000 * total["spend"], total["impressions"]),
            "roi": _ratio(total["value"] - total["spend"], total["spend"]),
        }
        for name in ("impressions", "clicks", "conversions"):
            found[name] = round(found[name]) if name in found else None
        if self.hour is not None:
            found["spend_by_hour"] = np.bincount(self.hour, self.spend, HOURS).tolist()
        return found


def _ratio(above: float, below: float) -> float | None:
    return above / below if below else None


@dataclass(frozen=True)
class ResampledDays:
    """How often each day is drawn in each replicate."""

    day: npt.NDArray[np.int64]
    """[rows] 0, 1, …"""
    weights: Floats
    """[days, replicates]; each replicate draws as many days as there are."""

    @classmethod
    def of(
        cls, days: npt.NDArray[np.integer] | None, replicates: int, seed: int
    ) -> ResampledDays | None:
        """Draw the days of every replicate; None where there are fewer than `LEAST_DAYS`."""
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
    """Totals of each amount in every replicate: name → [replicates]."""

    totals: dict[str, Floats]

    @classmethod
    def of(
        cls,
        earnings: Earnings,
        users: npt.NDArray[np.integer],
        resampling: Resampling,
        days: ResampledDays | None = None,
    ) -> Spread:
        """Resample the users, and the days.

        Args:
            earnings: Of one bidder.
            users: [rows], int64.
            resampling: Of at least these users; the same for all bidders, so that differences
                are paired.
            days: Of the rows; None: days are taken as they came.
        """
        user = np.searchsorted(resampling.users, users)
        size = len(resampling.users)
        columns = earnings.columns()
        weights = resampling.weights.astype(np.float64)

        def drawn(rows: slice | npt.NDArray[np.bool_]) -> Floats:
            sums = [np.bincount(user[rows], each[rows], size) for each in columns.values()]
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
        """Middle 95 % of a total."""
        low, high = bounds(self.totals[name])
        return {"low": low, "high": high}

    def difference(self, other: Spread, name: str) -> dict[str, float | None]:
        """Middle 95 % of this bidder's total less the other's."""
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
    """Summaries of several bidders on the very same auctions, with paired differences.

    Args:
        earned: Bidder → what it earned.
        users: [rows], int64.
        replicates: Of the resampling.
        seed: Of its draw.
        days: [rows]; from `LEAST_DAYS` days on they are resampled, too.

    Returns:
        `bidders`: name → summary with `intervals`; `differences`: name → amount → value, low and
        high of the first bidder less this one.
    """
    resampling = Resampling.of(users.astype(np.int64), replicates, seed)
    drawn = ResampledDays.of(days, replicates, seed)
    spreads = {name: Spread.of(each, users, resampling, drawn) for name, each in earned.items()}
    summaries: dict[str, Any] = {}
    for name, earnings in earned.items():
        names = [each for each in COMPARED if each in spreads[name].totals]
        summaries[name] = {
            **earnings.summary(),
            "intervals": {each: spreads[name].interval(each) for each in names},
        }
    first = next(iter(earned))
    differences: dict[str, Any] = {}
    for name in list(earned)[1:]:
        differences[name] = {
            each: {
                "value": summaries[first][each] - summaries[name][each],
                **spreads[first].difference(spreads[name], each),
            }
            for each in COMPARED
            if each in spreads[first].totals and each in spreads[name].totals
        }
    return {
        "bidders": summaries,
        "differences": differences,
        "users": len(resampling.users),
        "resampled_days": 0 if drawn is None else len(drawn.weights),
    }
