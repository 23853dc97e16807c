"""Logged auctions and the rules for replaying them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from nightbid.bidding.checks import Floats, Ints, at_least_zero, probabilities
from nightbid.errors import ConfigError, DataError


@dataclass(frozen=True)
class Rules:
    """How an auction is won and what the winner pays."""

    pricing: Literal["second", "first"] = "second"
    """`second`: the winner pays the market price (or the floor, if higher); `first`: its bid."""
    wins: Literal[">", ">="] = ">"
    """A bid wins if it is `>` (or `>=`) the market price. It must also reach the floor."""
    rounding: Literal["none", "down"] = "none"
    """`down`: bids are rounded down to whole units of price, as in iPinYou's replays."""
    per: float = 1000.0
    """Number of impressions that prices and bids are for: 1000 for CPM."""
    budget: float | None = None
    """Budget in the unit of prices, summed over impressions (money × `per`); None: unlimited."""
    stop: Literal["never_over", "after"] = "never_over"
    """When bidding ends for lack of budget.

    `never_over`: an auction whose price exceeds the remaining budget is lost. `after`: bidding
    stops after the auction in which the spend reached the budget, which may be exceeded by one
    price."""

    def __post_init__(self) -> None:
        if self.budget is not None and not (np.isfinite(self.budget) and self.budget > 0):
            raise ConfigError(
                f"the budget is {self.budget:g}",
                hint="set a budget above 0, or none for unlimited",
            )
        if not (np.isfinite(self.per) and self.per > 0):
            raise ConfigError(f"per is {self.per:g}", hint="use 1000 for CPM, 1 per impression")
        for name, allowed in (
            ("pricing", ("second", "first")),
            ("wins", (">", ">=")),
            ("rounding", ("none", "down")),
            ("stop", ("never_over", "after")),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}", hint=f"use {' or '.join(allowed)}"
                )


@dataclass(frozen=True)
class Auctions:
    """Logged auctions in order of time; every array is [rows]."""

    price: Floats
    """Market price: the highest competing bid, per `Rules.per` impressions."""
    click: Floats
    """1 if the impression was clicked, else 0."""
    floor: Floats | None = None
    hour: Ints | None = None
    """Hour of the day, 0 to 23."""
    user: npt.NDArray[np.uint64] | None = None
    """User hash, by which intervals resample."""
    day: Ints | None = None
    conversion: Floats | None = None
    true_probability: Floats | None = None
    """True P(click), known in simulated logs only; expected outcomes are computed from it."""

    def __len__(self) -> int:
        return len(self.price)

    @classmethod
    def checked(cls, *, where: str = "", **columns: npt.ArrayLike | None) -> Auctions:
        """Build from columns, and reject values that would distort a replay.

        Raises:
            DataError: There are no rows; columns differ in length; prices or floors are missing or
                negative; or probabilities or labels are outside 0..1.
        """
        given = {name: value for name, value in columns.items() if value is not None}
        unknown = sorted(set(given) - {field.name for field in fields(cls)})
        if unknown:
            raise TypeError(f"unexpected columns {unknown}")
        rows = {name: len(np.asarray(value)) for name, value in given.items()}
        if not rows.get("price"):
            raise DataError(
                "there are no auctions", where=where, hint="choose a day that has impressions"
            )
        if len(set(rows.values())) > 1:
            raise DataError(f"columns differ in length: {rows}", where=where)
        read: dict[str, npt.NDArray[np.generic]] = {}
        for name, value in given.items():
            if name in ("price", "floor"):
                read[name] = at_least_zero(name, value, where=where)
            elif name in ("click", "conversion", "true_probability"):
                read[name] = probabilities(name, value, where=where)
            elif name == "user":
                read[name] = np.asarray(value, np.uint64)
            else:
                read[name] = np.asarray(value, np.int64)
        auctions = cls(**read)  # type: ignore[arg-type]
        if auctions.hour is not None:
            outside = auctions.hour[(auctions.hour < 0) | (auctions.hour > 23)]
            if len(outside):
                raise DataError(f"hour {outside[0]} is outside 0..23", where=where)
        return auctions

    def part(self, rows: slice | npt.NDArray[np.generic]) -> Auctions:
        """Select rows by a slice, a mask or positions."""
        chosen: dict[str, Any] = {
            field.name: None if (value := getattr(self, field.name)) is None else value[rows]
            for field in fields(self)
        }
        return Auctions(**chosen)
