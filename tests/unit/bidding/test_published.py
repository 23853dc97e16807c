"""Published results of campaign 1458, equal to the last digit (KDD 2015, WSDM 2016 code)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from nightbid.bidding.auctions import Auctions, Rules
from nightbid.bidding.landscape import empirical, fit_half_price, kaplan_meier
from nightbid.bidding.replay import AuctionResults, replay
from nightbid.bidding.strategies import (
    Arbitrage,
    Constant,
    DualPacing,
    Linear,
    Ortb1,
    Pid,
    Shading,
    Truthful,
)
from nightbid.bidding.strategies.search import clicks, profit, search
from nightbid.errors import DataError


def auctions(rows: pd.DataFrame) -> Auctions:
    return Auctions.checked(price=rows.price.to_numpy(), click=rows.click.to_numpy())


@pytest.fixture(scope="module")
def value(train: pd.DataFrame) -> float:
    return float(0.2 * (train.price.sum() / 1000) / train.click.sum())


# (clicks, bids, impressions, cost, profit, parameter), then with competitors.
PUBLISHED = {
    "const": ((0, 80_000, 740, "2958", "-2.96", 5), None),
    "truth": ((3, 80_000, 601, "11862", "44.72", None), None),
    "lin": ((13, 59_404, 10_843, "339097", "-93.89", 75), None),
    "ortb": ((11, 55_468, 12_556, "339091", "-131.61", 290), None),
    "sam1": ((6, 80_000, 3_148, "67405", "45.77", 25), (6, 1_303, "54032.0", "59.14", "8.2433")),
    "sam2": ((7, 80_000, 4_146, "68116", "63.92", 7.1), (7, 4_146, "71408.9", "60.63", "0.7942")),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_strategies_reproduce_the_published_table(
    name: str, train: pd.DataFrame, test: pd.DataFrame, value: float
) -> None:
    rules = Rules(rounding="down", budget=float(test.price.sum() / 16), stop="after")
    assert rules.budget == 339_072.6875
    assert f"{value:.6f}" == "18.862191"
    half = fit_half_price(train.price)
    assert half == 32
    base = float(train.pctr.mean())
    earned = profit(value)
    grids: dict[str, tuple[list[float], Callable[[float], object], object]] = {
        "const": (list(range(5, 400, 18)), Constant, earned),
        "lin": (list(range(5, 146, 5)), lambda p: Linear(p, base), clicks),
        "ortb": (list(range(20, 1371, 30)), lambda p: Ortb1(half, p / base), clicks),
        "sam1": (list(range(5, 150, 4)), lambda p: Linear(p, base), earned),
        "sam2": ([round(0.1 + 0.2 * n, 1) for n in range(50)],
                 lambda p: Arbitrage(half, value, p), earned),
        "truth": ([0], lambda p: Truthful(value), earned),
    }  # fmt: skip
    grid, make, objective = grids[name]
    earlier = train.iloc[::-1].iloc[: len(test)]
    parameter = search(
        grid,
        lambda p: make(p).bids(earlier.pctr.to_numpy()),  # type: ignore[attr-defined]
        auctions(earlier),
        rules,
        objective,  # type: ignore[arg-type]
    )
    strategy = make(parameter)
    bids = strategy.bids(test.pctr.to_numpy())  # type: ignore[attr-defined]
    expected, with_competitors = PUBLISHED[name]

    result = replay(auctions(test), bids, rules)
    assert _line(auctions(test), result, value)[:5] == expected[:5]
    if expected[5] is not None:
        assert parameter == expected[5]
    if with_competitors is None:
        return

    own = np.floor(strategy.bids(train.pctr.to_numpy()))  # type: ignore[attr-defined]
    added = float((0.5 * np.maximum(own - train.price, 0)).mean())
    raised = Auctions.checked(price=test.price + added, click=test.click)
    result = replay(raised, bids, rules)
    totals = (
        int(clicks(raised, result)),
        int(result.won.sum()),
        f"{result.cost:.1f}",
        f"{earned(raised, result):.2f}",
        f"{added:.4f}",
    )
    assert totals == with_competitors


def _line(rows: Auctions, result: AuctionResults, value: float) -> tuple[object, ...]:
    return (
        int(clicks(rows, result)),
        result.entered,
        int(result.won.sum()),
        f"{result.cost:.0f}",
        f"{profit(value)(rows, result):.2f}",
    )


@pytest.mark.parametrize(("part", "first"), [("train", 0), ("test", 100_000)])
def test_pid_reproduces_every_line_of_the_published_demonstration(
    part: str, first: int, train: pd.DataFrame, pid_demo: pd.DataFrame
) -> None:
    base_rate = float(train.pctr.iloc[:100_000].mean())
    rows = train.iloc[first : first + 100_000]
    base = np.floor(Linear(69, base_rate).bids(rows.pctr.to_numpy()))
    _, history = Pid(40_000).trace(auctions(rows), base, Rules())

    lines = [
        (f"{at.ecpc:.4f}", f"{at.phi:.4f}", at.clicks, f"{at.clicks / rows.click.sum():.4f}",
         f"{at.impressions / len(rows):.4f}", at.cost)
        for at in history
    ]  # fmt: skip
    published = [
        (f"{at.ecpc:.4f}", f"{at.phi:.4f}", at.total_click, f"{at.click_ratio:.4f}",
         f"{at.win_rate:.4f}", at.total_cost)
        for at in pid_demo[pid_demo.part == part].itertuples()
    ]  # fmt: skip
    assert len(lines) == 40
    assert lines == published


def test_first_price_shading_earns_more_than_constant_factors(
    train: pd.DataFrame, test: pd.DataFrame, value: float
) -> None:
    rules, earned = Rules(pricing="first", rounding="down"), profit(value)
    rows = auctions(test)
    most = train.price.max()
    true = Truthful(value).bids(test.pctr.to_numpy())
    shading = Shading.fit(empirical(train.price), value, most=float(true.max()))

    def reached(bids: np.ndarray) -> float:
        return earned(rows, replay(rows, bids, rules))

    # Bids never exceed the largest price seen on earlier days.
    assert f"{reached(np.minimum(true, most)):.2f}" == "27.45"
    assert f"{reached(np.minimum(0.35 * true, most)):.2f}" == "37.13"
    assert f"{reached(np.where(rows.price + 1 <= true, rows.price + 1, 0)):.2f}" == "44.12"
    assert reached(shading.bids(test.pctr.to_numpy())) >= 36


@pytest.mark.parametrize("share", [1 / 64, 1 / 16, 1 / 4])
def test_dual_pacing_spends_evenly_and_reaches_98_percent_of_the_optimum(
    share: float, train: pd.DataFrame, test: pd.DataFrame, value: float
) -> None:
    budget = float(test.price.sum() * share)
    pctr, dear = test.pctr.to_numpy(), 20 * value
    strategy = DualPacing.fit(
        auctions(train), train.pctr.to_numpy(), Rules(budget=budget * len(train) / len(test)), dear
    )
    result = strategy.run(auctions(test), pctr, Rules(budget=budget))

    best = np.argsort(-pctr / test.price.to_numpy())
    affordable = np.cumsum(test.price.to_numpy()[best]) <= budget
    assert pctr[result.won].sum() >= 0.98 * pctr[best[affordable]].sum()
    assert result.cost <= budget
    spent = np.cumsum(result.paid) / budget
    for time in (0.25, 0.5, 0.75, 1.0):
        assert abs(spent[int(len(test) * time) - 1] - time) <= 0.05


def test_kaplan_meier_estimates_prices_from_censored_auctions(train: pd.DataFrame) -> None:
    price = train.price.to_numpy(float)
    full = empirical(price).cdf

    def error(bids: np.ndarray, rows: np.ndarray | slice = slice(None)) -> float:
        won = bids > price[rows]
        landscape = kaplan_meier(bids, won, np.where(won, price[rows], np.nan))
        true = empirical(price[rows]).cdf
        upto = min(landscape.known_to + 1, len(true))
        return float(np.abs(true[:upto] - landscape.cdf[:upto]).max())

    assert error(np.random.default_rng(0).integers(0, 301, len(price))) <= 0.005
    constant = kaplan_meier(np.full(len(price), 60), price < 60, np.where(price < 60, price, 0))
    assert constant.known_to == 59
    np.testing.assert_allclose(constant.cdf, full[:60], atol=1e-12)
    bids = np.floor(Linear(69, float(train.pctr.mean())).bids(train.pctr.to_numpy()))
    assert error(bids) == pytest.approx(0.12, abs=0.01)
    decile = np.searchsorted(np.quantile(train.pctr, np.arange(1, 10) / 10), train.pctr, "right")
    worst = [error(bids[decile == at], decile == at) for at in range(1, 10)]
    assert max(worst) <= 0.117 / 2
    # The lowest bids won nothing, so nothing is known of those prices, as the result reports.
    with pytest.raises(DataError, match="none of 21,405 auctions was won"):
        error(bids[decile == 0], decile == 0)
