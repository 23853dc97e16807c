"""Strategies and landscapes equal numeric optima and brute force on synthetic auctions."""

from __future__ import annotations

import numpy as np
import pytest
from nightbid.bidding.auctions import Auctions, Rules
from nightbid.bidding.landscape import (
    Landscape,
    by_slice,
    empirical,
    fit_log_logistic,
    kaplan_meier,
    mixture,
)
from nightbid.bidding.replay import replay
from nightbid.bidding.strategies import (
    CostTarget,
    DualPacing,
    Ortb1,
    Ortb2,
    Rlb,
    Shading,
    Truthful,
)
from nightbid.bidding.strategies.rlb import _table as rlb_table
from nightbid.bidding.strategies.search import search
from nightbid.errors import ConfigError, DataError
from scipy.optimize import linprog, minimize_scalar

RNG = np.random.default_rng(11)


def made(rows: int = 4000) -> tuple[Auctions, np.ndarray]:
    rng = np.random.default_rng(3)
    pctr = rng.beta(1, 200, rows)
    price = np.floor(rng.gamma(2, 40, rows))
    click = rng.random(rows) < pctr
    return Auctions.checked(price=price, click=click, true_probability=pctr), pctr


@pytest.mark.parametrize("pctr", [1e-5, 1e-3, 0.2])
@pytest.mark.parametrize("multiplier", [0.5, 1.0, 3.0])
def test_ortb_bids_match_the_numeric_optimum(pctr: float, multiplier: float) -> None:
    c, value = 50.0, 20.0
    v = 1000 * value * pctr
    for win, bid in (
        (lambda b: b / (c + b),
         Ortb1(c, 1000 * value / multiplier).bids(np.array([pctr]))[0]),
        (lambda b: b**2 / (c**2 + b**2),
         Ortb2(c, value, multiplier).bids(np.array([pctr]))[0]),
    ):  # fmt: skip
        best = minimize_scalar(
            lambda b, win=win: -(v - multiplier * b) * win(b), bounds=(0, v / multiplier + 1e-9),
            method="bounded", options={"xatol": 1e-12},
        )  # fmt: skip
        assert (v - multiplier * bid) * win(bid) >= -best.fun * (1 - 1e-9)
        assert bid == pytest.approx(best.x, rel=1e-5, abs=1e-6)


def test_truthful_bids_earn_most_in_second_price_auctions() -> None:
    auctions, pctr = made()
    value = 1000 * 5.0 * pctr
    truth = replay(auctions, Truthful(5.0).bids(pctr), Rules())
    best = np.where(truth.won, value - truth.paid, 0)
    for _ in range(20):
        other = replay(auctions, RNG.gamma(2, 40, len(pctr)), Rules())
        assert (best >= np.where(other.won, value - other.paid, 0) - 1e-9).all()


def test_shading_earns_at_least_as_much_as_any_constant_factor() -> None:
    auctions, pctr = made()
    landscape = empirical(auctions.price)
    value = 1000 * 5.0 * pctr

    def expected(bids: np.ndarray) -> float:
        return float(((value - np.floor(bids)) * landscape.win(bids)).sum())

    shading = Shading.fit(landscape, 5.0, most=float(value.max()))
    reached = expected(shading.bids(pctr))
    # The table rounds values to integers, which loses at most one unit per row.
    for factor in np.arange(0.05, 1.01, 0.05):
        assert reached >= expected(factor * value) - 1e-3 * reached


def test_cost_target_reaches_99_percent_of_the_linear_program() -> None:
    auctions, pctr = made()
    value, limit = 10.0, 3.0
    budget = float(auctions.price.sum() / 20)
    for rules in (Rules(budget=budget), Rules()):
        strategy = CostTarget.fit(
            auctions, pctr, rules, value_per_click=value, cost_per_click=limit
        )
        rows = [auctions.price - 1000 * limit * pctr, auctions.price]
        bounds = [0.0, budget if rules.budget else auctions.price.sum()]
        best = linprog(-1000 * value * pctr, A_ub=np.stack(rows), b_ub=bounds, bounds=(0, 1))
        result = replay(auctions, strategy.bids(pctr), Rules())
        assert (1000 * value * pctr)[result.won].sum() >= 0.99 * -best.fun
        assert result.cost <= 1.001 * 1000 * limit * pctr[result.won].sum()
    roi = CostTarget.fit(auctions, pctr, Rules(), value_per_click=value, roi=value / limit)
    assert roi.cost_per_click == pytest.approx(limit)
    assert roi.target_dual == pytest.approx(strategy.target_dual)


def test_pacing_stays_within_budget_in_first_and_second_price() -> None:
    auctions, pctr = made()
    budget = float(auctions.price.sum() / 30)
    for pricing in ("second", "first"):
        rules = Rules(pricing=pricing, budget=budget)  # type: ignore[arg-type]
        result = DualPacing(50.0, step=0.01).run(auctions, pctr, rules)
        assert 0.8 * budget < result.cost <= budget
    with pytest.raises(ConfigError, match="needs a budget"):
        DualPacing(50.0).run(auctions, pctr, Rules())


def test_rlb_table_matches_the_dynamic_program() -> None:
    auctions, budget = 20, 60
    rng = np.random.default_rng(5)
    mass = rng.dirichlet(np.ones(15))
    theta = 0.02
    expected = np.zeros((auctions + 1, budget + 1))
    for left in range(1, auctions + 1):
        for money in range(budget + 1):
            before = expected[left - 1]
            gains = [mass[price] * max(theta + before[money - price] - before[money], 0)
                     for price in range(min(money, 14) + 1)]  # fmt: skip
            expected[left, money] = before[money] + sum(gains)
    np.testing.assert_allclose(rlb_table(theta, mass, auctions, budget), expected, atol=1e-12)


@pytest.mark.slow
def test_rlb_spends_its_budget_on_the_most_promising_auctions() -> None:
    auctions, pctr = made()
    rules = Rules(budget=float(auctions.price.sum() / 16))
    strategy = Rlb.fit(auctions, pctr, rules)
    result = strategy.run(auctions, pctr, rules)
    assert 0.95 * rules.budget < result.cost <= rules.budget
    paced = DualPacing.fit(auctions, pctr, rules, 50.0).run(auctions, pctr, rules)
    # It assumes that future auctions are average, so it earns less.
    assert pctr[result.won].sum() > 0.9 * pctr[paced.won].sum()
    with pytest.raises(ConfigError, match="rlb needs a budget"):
        Rlb.fit(auctions, pctr, Rules())
    with pytest.raises(ConfigError, match="rlb is for second-price auctions, not first"):
        Rlb.fit(auctions, pctr, Rules(pricing="first", budget=1.0))


def test_search_returns_the_first_of_equal_parameters() -> None:
    auctions, _ = made()
    grid = [3.0, 1.0, 2.0]
    assert search(grid, lambda p: np.full(len(auctions), p), auctions, Rules(), lambda a, r: 7) == 3
    with pytest.raises(ConfigError, match="grid of parameters is empty"):
        search([], lambda p: np.zeros(1), auctions, Rules(), lambda a, r: 7)


def test_kaplan_meier_matches_hand_computed_values() -> None:
    # Won at 2 and 5 with bids 4 and 9; lost with bids 3 and 6: the prices are ≥ 3 and ≥ 6.
    landscape = kaplan_meier([4, 9, 3, 6], [True, True, False, False], [2, 5, np.nan, np.nan])
    # Four are at risk at 2; at 5, the one that won and the one that lost with a bid of 6.
    np.testing.assert_allclose(landscape.cdf, [0, 0, 1 / 4, 1 / 4, 1 / 4, 1 - 3 / 4 * 1 / 2])
    assert landscape.known_to == 5
    assert not landscape.complete
    assert landscape.win([3, 6]).tolist() == pytest.approx([0.25, 0.625])
    with pytest.raises(DataError, match=r"a bid of 7 is above 6.*known"):
        landscape.win(7)


def test_kaplan_meier_without_losses_equals_the_empirical_distribution() -> None:
    prices = RNG.integers(0, 40, 500)
    landscape = kaplan_meier(np.full(500, 50), np.ones(500, bool), prices)
    assert landscape.complete
    np.testing.assert_allclose(landscape.cdf, empirical(prices).cdf, atol=1e-12)
    assert landscape.win(1000) == 1


def test_landscapes_without_known_prices_are_rejected() -> None:
    with pytest.raises(DataError, match="none of 2 auctions was won"):
        kaplan_meier([4, 9], [False, False], [np.nan, np.nan])
    with pytest.raises(DataError, match="slice 1: none of 1 auction was"):
        by_slice(
            np.array([0, 1]), np.array([5.0, 5.0]), np.array([True, False]), np.array([2.0, 0.0])
        )
    with pytest.raises(DataError, match="no prices are known"):
        empirical([])


def test_mixing_slices_corrects_price_dependent_censoring() -> None:
    rng = np.random.default_rng(5)
    rows = 60_000
    of = rng.integers(0, 2, rows)
    # Expensive auctions get high bids: in pooled data, censoring depends on the price.
    price = np.floor(rng.gamma(3, np.where(of, 30, 8), rows))
    bids = np.floor(rng.gamma(3, np.where(of, 40, 10), rows))
    won = bids > price
    prices_won = np.where(won, price, np.nan)
    true = empirical(price)
    sliced = mixture(by_slice(of, bids, won, prices_won))
    upto = min(60, sliced.known_to)
    pooled = np.abs(kaplan_meier(bids, won, prices_won).cdf[:upto] - true.cdf[:upto]).max()
    assert np.abs(sliced.cdf[:upto] - true.cdf[:upto]).max() < pooled / 2


@pytest.mark.slow
def test_log_logistic_recovers_its_parameters_under_censoring() -> None:
    rng = np.random.default_rng(2)
    price = 60 * (1 / rng.random(40_000) - 1) ** (-1 / 2.5)
    bids = rng.uniform(0, 200, 40_000)
    fitted = fit_log_logistic(price, won=bids > price, bids=bids)
    assert fitted.scale == pytest.approx(60, rel=0.03)
    assert fitted.shape == pytest.approx(2.5, rel=0.03)
    assert isinstance(fitted.landscape(300), Landscape)
    with pytest.raises(DataError, match="only 1 different price known"):
        fit_log_logistic([5, 5, 5])
