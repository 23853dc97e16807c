"""Replays of a few auctions computed by hand, and the input that they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nightbid.bidding.auctions import Auctions, Rules
from nightbid.bidding.replay import replay
from nightbid.errors import ConfigError, DataError

AUCTIONS = Auctions.checked(
    price=[10, 20, 30, 20, 5], click=[0, 1, 1, 0, 1], floor=[0, 25, 0, 0, 8]
)
BIDS = np.array([15.9, 24.0, 30.0, 21.0, 8.0])


def test_second_price_replay_applies_floors() -> None:
    result = replay(AUCTIONS, BIDS, Rules())

    # A bid of 24 is below the floor of 25; 30 ties; the last bid pays its floor.
    assert result.won.tolist() == [True, False, False, True, True]
    assert result.paid.tolist() == [10, 0, 0, 20, 8]
    assert (result.cost, result.entered) == (38, 5)


def test_replay_applies_ties_first_price_and_rounding() -> None:
    assert replay(AUCTIONS, BIDS, Rules(wins=">=")).won.tolist() == [True, False, True, True, True]
    first = replay(AUCTIONS, BIDS, Rules(pricing="first", rounding="down"))
    assert first.paid.tolist() == [15, 0, 0, 21, 8]
    assert not replay(AUCTIONS, np.zeros(5), Rules(wins=">=")).won.any()


def test_a_budget_skips_bids_or_stops_bidding() -> None:
    never = replay(AUCTIONS, BIDS, Rules(budget=20))
    assert never.paid.tolist() == [10, 0, 0, 0, 8]
    assert never.entered == 5
    after = replay(AUCTIONS, BIDS, Rules(budget=20, stop="after"))
    assert after.paid.tolist() == [10, 0, 0, 20, 0]
    assert (after.cost, after.entered) == (30, 4)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=60),
       st.integers(1, 400))  # fmt: skip
def test_spend_equals_the_prices_won_and_stays_within_budget(
    rows: list[tuple[int, int]], budget: int
) -> None:
    price, bids = (np.array(column, float) for column in zip(*rows, strict=True))
    auctions = Auctions.checked(price=price, click=np.zeros(len(price)))
    free = replay(auctions, bids, Rules())
    held = replay(auctions, bids, Rules(budget=budget))
    assert free.won.tolist() == (bids > price).tolist()
    assert free.cost == price[bids > price].sum()
    assert held.cost <= budget
    assert not (held.won & ~free.won).any()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"price": [], "click": []}, "there are no auctions"),
        ({"price": [1, -2], "click": [0, 0]}, "1 of 2 values of price is not finite"),
        ({"price": [1, np.nan], "click": [0, 0]}, "the first in row 1: nan"),
        ({"price": [1, 2], "click": [0, 3]}, "values of click is not within 0..1"),
        ({"price": [1, 2], "click": [0]}, "columns differ in length"),
        ({"price": [1], "click": [0], "true_probability": [1.5]}, "true_probability"),
        ({"price": [1], "click": [0], "hour": [24]}, "hour 24"),
    ],
)
def test_invalid_auctions_are_reported_in_one_line(
    columns: dict[str, list[float]], message: str
) -> None:
    with pytest.raises(DataError) as caught:
        Auctions.checked(where="day 2026-01-08", **columns)
    assert message in str(caught.value)
    assert str(caught.value).startswith("day 2026-01-08: ")
    assert "\n" not in str(caught.value)


def test_invalid_bids_and_rules_are_rejected() -> None:
    with pytest.raises(DataError, match="1 of 5 values of bids"):
        replay(AUCTIONS, np.array([1, 2, np.inf, 1, 1]), Rules())
    with pytest.raises(DataError, match="2 bids for 5 auctions"):
        replay(AUCTIONS, np.array([1.0, 2.0]), Rules())
    with pytest.raises(ConfigError, match="the budget is 0"):
        Rules(budget=0)
    with pytest.raises(ConfigError, match="pricing is 'third'"):
        Rules(pricing="third")  # type: ignore[arg-type]
