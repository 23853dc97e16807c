"""Money: totals computed by hand, paired intervals, and the cost of miscalibration."""

from __future__ import annotations

from datetime import date

import numpy as np
import pyarrow as pa
import pytest
from nightbid.bidding.auctions import Auctions, Rules
from nightbid.bidding.money import LEAST_DAYS, Earnings, compare
from nightbid.bidding.replay import replay
from nightbid.config.sources import SimulatorSource
from nightbid.data.simulator.source import SimulatorLogs


def test_totals_match_hand_computed_values() -> None:
    auctions = Auctions.checked(
        price=[100, 200, 400], click=[1, 0, 1], hour=[0, 0, 23], true_probability=[0.5, 0.1, 0.2],
        conversion=[1, 0, 0],
    )  # fmt: skip
    earnings = Earnings.of(
        auctions, replay(auctions, np.array([150.0, 250, 300]), Rules()), value=2
    )
    summary = earnings.summary()

    assert (summary["impressions"], summary["clicks"], summary["conversions"]) == (2, 1, 1)
    assert summary["spend"] == pytest.approx(0.3)
    assert summary["value"] == 2
    assert summary["surplus"] == pytest.approx(1.7)
    assert summary["expected_surplus"] == pytest.approx(0.6 * 2 - 0.3)
    assert summary["ecpc"] == pytest.approx(0.3)
    assert summary["ecpm"] == pytest.approx(150)
    assert summary["roi"] == pytest.approx(1.7 / 0.3)
    assert summary["win_rate"] == pytest.approx(2 / 3)
    assert summary["spend_by_hour"][0] == pytest.approx(0.3)


def test_intervals_resample_days_when_there_are_enough() -> None:
    """Users are alike but days differ: only resampled days show the variance between weeks."""
    random = np.random.default_rng(0)
    day = np.arange(8000) % 8
    clicks = (random.random(8000) < 0.05 + 0.05 * day).astype(float)
    auctions = Auctions.checked(price=np.ones(8000), click=clicks, day=day)
    earned = {
        name: Earnings.of(auctions, replay(auctions, np.full(8000, bid), Rules()), value=2)
        for name, bid in (("high", 2.0), ("none", 0.0))
    }
    users = np.arange(8000)
    comparison = compare(earned, users, days=auctions.day, replicates=200, seed=0)
    alone = compare(earned, users, replicates=200, seed=0)
    few = compare(earned, users, days=np.minimum(day, LEAST_DAYS - 2), replicates=200, seed=0)

    def width(of: dict, name: str) -> float:
        return of["differences"]["none"][name]["high"] - of["differences"]["none"][name]["low"]

    assert (comparison["resampled_days"], few["resampled_days"]) == (8, 0)
    assert width(few, "value") == width(alone, "value")
    # Eight days of 50 to 400 clicks at 2 each: ±1.96 · √8 · 115 · 2 around the total.
    assert width(comparison, "value") == pytest.approx(2 * 1.96 * np.sqrt(8) * 115 * 2, rel=0.25)
    assert width(comparison, "value") > 4 * width(alone, "value")
    assert comparison["bidders"]["high"]["conversions"] is None


def test_rates_are_none_when_no_auction_is_won() -> None:
    auctions = Auctions.checked(price=[100], click=[1])
    summary = Earnings.of(auctions, replay(auctions, np.array([1.0]), Rules()), value=2).summary()
    assert summary["ecpc"] is summary["ecpm"] is summary["roi"] is None
    assert summary["surplus"] == 0


@pytest.mark.slow
def test_miscalibrated_predictions_lose_money_on_a_simulated_night() -> None:
    logs = SimulatorLogs(SimulatorSource())
    table = pa.Table.from_batches(list(logs.batches(date(2026, 1, 12))))
    true = table["p_click_true"].to_numpy()
    auctions = Auctions.checked(
        price=table["win_price"].to_numpy(), floor=table["floor_price"].to_numpy(),
        click=table["click"].to_numpy(), true_probability=true,
    )  # fmt: skip
    users = np.unique(table["user_id"].to_pylist(), return_inverse=True)[1]
    earned = {
        str(factor): Earnings.of(
            auctions, replay(auctions, 1000 * 0.03 * factor * true, Rules()), value=0.03
        )
        for factor in (1, 0.7, 1.3, 2)
    }
    comparison = compare(earned, users, replicates=200, seed=0)

    reached = {name: totals["expected_surplus"] for name, totals in comparison["bidders"].items()}
    assert f"{reached['1']:.2f}" == "32.32"
    assert 0.19 <= 1 - reached["2"] / reached["1"] <= 0.25
    for factor in ("0.7", "1.3"):
        assert 0.03 <= 1 - reached[factor] / reached["1"] <= 0.06
        difference = comparison["differences"][factor]["expected_surplus"]
        assert difference["value"] == pytest.approx(reached["1"] - reached[factor])
        assert 0 < difference["low"] < difference["value"] < difference["high"]
        drawn = comparison["differences"][factor]["surplus"]
        assert difference["high"] - difference["low"] < (drawn["high"] - drawn["low"]) / 2
