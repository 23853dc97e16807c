"""Replays of iPinYou campaign 1458 compared with published figures, and auctions per second.

    python benchmarks/bidding.py [FOLDER]

FOLDER holds 1458.train.txt.gz, 1458.test.txt.gz and pid_demo.tsv; the default is
../shared/data/ipinyou_bidding. bidding_nights.py covers simulated nights.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from nightbid.bidding.auctions import Auctions, Rules
from nightbid.bidding.landscape import empirical, fit_half_price, kaplan_meier
from nightbid.bidding.replay import replay
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

DEFAULT = Path(__file__).resolve().parents[2] / "shared" / "data" / "ipinyou_bidding"
PUBLISHED = {
    "const": (0, 80_000, 740, 2958.0, -2.96),
    "truth": (3, 80_000, 601, 11862.0, 44.72),
    "lin": (13, 59_404, 10_843, 339097.0, -93.89),
    "ortb": (11, 55_468, 12_556, 339091.0, -131.61),
    "sam1": (6, 80_000, 3_148, 67405.0, 45.77),
    "sam2": (7, 80_000, 4_146, 68116.0, 63.92),
    "sam1 + comp": (6, 80_000, 1_303, 54032.0, 59.14),
    "sam2 + comp": (7, 80_000, 4_146, 71408.9, 60.63),
}


def load(folder: Path, name: str) -> pd.DataFrame:
    names = ["click", "price", "pctr", "time"]
    return pd.read_csv(folder / f"1458.{name}.txt.gz", sep="\t", header=None, names=names)


def auctions(rows: pd.DataFrame, added: float = 0.0) -> Auctions:
    return Auctions.checked(price=rows.price.to_numpy() + added, click=rows.click.to_numpy())


def arbitrage(train: pd.DataFrame, test: pd.DataFrame, value: float) -> None:
    rules = Rules(rounding="down", budget=float(test.price.sum() / 16), stop="after")
    half, base, earned = fit_half_price(train.price), float(train.pctr.mean()), profit(value)
    grids: dict[str, tuple[list[float], Callable, Callable]] = {
        "const": (list(range(5, 400, 18)), Constant, earned),
        "truth": ([0], lambda p: Truthful(value), earned),
        "lin": (list(range(5, 146, 5)), lambda p: Linear(p, base), clicks),
        "ortb": (list(range(20, 1371, 30)), lambda p: Ortb1(half, p / base), clicks),
        "sam1": (list(range(5, 150, 4)), lambda p: Linear(p, base), earned),
        "sam2": ([round(0.1 + 0.2 * n, 1) for n in range(50)],
                 lambda p: Arbitrage(half, value, p), earned),
    }  # fmt: skip
    earlier = train.iloc[::-1].iloc[: len(test)]
    past = earlier.pctr.to_numpy()
    print(f"\n1458 train → test, budget {rules.budget:,.4f}, landscape l = {half}")
    print(f"{'':14}{'clicks':>8}{'bids':>9}{'imps':>8}{'cost':>12}{'profit':>10}   parameter")
    for name, (grid, make, objective) in grids.items():
        parameter = search(
            grid, lambda p, make=make: make(p).bids(past), auctions(earlier), rules, objective
        )
        bids = make(parameter).bids(test.pctr.to_numpy())
        show(name, auctions(test), bids, rules, value, f"{parameter}")
        if name.startswith("sam"):
            own = np.floor(make(parameter).bids(train.pctr.to_numpy()))
            added = float((0.5 * np.maximum(own - train.price, 0)).mean())
            raised = auctions(test, added)
            show(f"{name} + comp", raised, bids, rules, value, f"price + {added:.4f}")


def show(
    name: str, rows: Auctions, bids: np.ndarray, rules: Rules, value: float, note: str
) -> None:
    result = replay(rows, bids, rules)
    measured = (
        int(clicks(rows, result)), result.entered, int(result.won.sum()),
        round(result.cost, 1), round(profit(value)(rows, result), 2),
    )  # fmt: skip
    for label, line in ((name, measured), ("  published", PUBLISHED[name])):
        print(f"{label:14}{line[0]:>8,}{line[1]:>9,}{line[2]:>8,}{line[3]:>12,.1f}{line[4]:>10.2f}"
              f"   {note if label == name else ''}")  # fmt: skip


def pid(folder: Path, train: pd.DataFrame) -> None:
    published = pd.read_csv(folder / "pid_demo.tsv", sep="\t")
    base_rate = float(train.pctr.iloc[:100_000].mean())
    equal = 0
    for part, first in (("train", 0), ("test", 100_000)):
        rows = train.iloc[first : first + 100_000]
        base = np.floor(Linear(69, base_rate).bids(rows.pctr.to_numpy()))
        _, history = Pid(40_000).trace(auctions(rows), base, Rules())
        lines = published[published.part == part]
        for at, line in zip(history, lines.itertuples(), strict=True):
            equal += (
                f"{at.ecpc:.4f} {at.phi:.4f} {at.clicks} {at.impressions / len(rows):.4f} {at.cost}"
                == f"{line.ecpc:.4f} {line.phi:.4f} {line.total_click} {line.win_rate:.4f} "
                f"{float(line.total_cost)}"
            )
        print(f"PID {part}: last eCPC {history[-1].ecpc:.4f}, published {lines.ecpc.iloc[-1]:.4f}")
    print(f"PID: {equal} of {len(published)} published lines are equal")


def first_price(train: pd.DataFrame, test: pd.DataFrame, value: float) -> None:
    rules, rows, most = Rules(pricing="first", rounding="down"), auctions(test), train.price.max()
    true = Truthful(value).bids(test.pctr.to_numpy())
    shaded = Shading.fit(empirical(train.price), value, most=float(true.max()))
    print("\nfirst price, profit by clicks (reference in brackets)")
    for name, bids, known in (
        ("truthful", np.minimum(true, most), 27.45),
        ("0.35 of it", np.minimum(0.35 * true, most), 37.13),
        ("shaded", shaded.bids(test.pctr.to_numpy()), 36.37),
        ("oracle", np.where(rows.price + 1 <= true, rows.price + 1, 0), 44.12),
    ):
        print(f"  {name:12}{profit(value)(rows, replay(rows, bids, rules)):8.2f} [{known}]")


def pacing(train: pd.DataFrame, test: pd.DataFrame, value: float) -> None:
    pctr, price, dear = test.pctr.to_numpy(), test.price.to_numpy(), 20 * value
    best = np.argsort(-pctr / price)
    print("\ndual pacing, share of the best in hindsight; spend at each quarter")
    for share in (1 / 64, 1 / 16, 1 / 4):
        budget = float(price.sum() * share)
        earlier = Rules(budget=budget * len(train) / len(test))
        strategy = DualPacing.fit(auctions(train), train.pctr.to_numpy(), earlier, dear)
        result = strategy.run(auctions(test), pctr, Rules(budget=budget))
        reached = pctr[result.won].sum() / pctr[best[np.cumsum(price[best]) <= budget]].sum()
        spent = np.cumsum(result.paid)[[19_999, 39_999, 59_999, 79_999]] / budget
        print(f"  budget {share:.4f} of the cost: {reached:.4f}; {spent.round(3).tolist()}")


def landscapes(train: pd.DataFrame) -> None:
    price = train.price.to_numpy(float)

    def error(bids: np.ndarray, rows: np.ndarray | slice = slice(None)) -> float:
        won = bids > price[rows]
        curve = kaplan_meier(bids, won, np.where(won, price[rows], np.nan))
        true = empirical(price[rows]).cdf
        end = min(curve.known_to + 1, len(true))
        return float(np.abs(true[:end] - curve.cdf[:end]).max())

    bids = np.floor(Linear(69, float(train.pctr.mean())).bids(train.pctr.to_numpy()))
    decile = np.searchsorted(np.quantile(train.pctr, np.arange(1, 10) / 10), train.pctr, "right")
    print("\nKaplan–Meier, largest error where prices are known")
    uniform = np.random.default_rng(0).integers(0, 301, len(price))
    print(f"  uniform bids {error(uniform):.4f}, constant 60 {error(np.full(len(price), 60)):.1e}")
    worst = max(error(bids[decile == number], decile == number) for number in range(1, 10))
    print(f"  bids that follow pCTR: pooled {error(bids):.4f}, worst decile {worst:.4f}")


def speed() -> None:
    rng = np.random.default_rng(0)
    rows = 20_000_000
    auctions_drawn = Auctions(price=rng.integers(0, 300, rows).astype(float), click=np.zeros(rows))
    bids, pctr = rng.uniform(0, 300, rows), rng.beta(1, 1000, rows)
    replay(auctions_drawn.part(slice(0, 10)), bids[:10], Rules())
    DualPacing(100.0).run(auctions_drawn.part(slice(0, 10)), pctr[:10], Rules(budget=1e3))
    print("\nmillion auctions per second of CPU, one thread (asked: 20, and 1 with state)")
    for name, work in (
        ("fixed bids", lambda: replay(auctions_drawn, bids, Rules())),
        ("fixed bids, budget", lambda: replay(auctions_drawn, bids, Rules(budget=1e9))),
        ("dual pacing", lambda: DualPacing(100.0).run(auctions_drawn, pctr, Rules(budget=1e8))),
    ):
        start = time.process_time()  # CPU time of one thread: other load does not count
        work()
        print(f"  {name:20}{rows / (time.process_time() - start) / 1e6:8.1f}")


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT
    if folder.is_dir():
        train, test = load(folder, "train"), load(folder, "test")
        value = 0.2 * (train.price.sum() / 1000) / train.click.sum()
        print(f"value of a click {value:.6f}")
        arbitrage(train, test, value)
        pid(folder, train)
        first_price(train, test, value)
        pacing(train, test, value)
        landscapes(train)
    else:
        print(f"{folder} is not here: only the speed is measured")
    speed()


if __name__ == "__main__":
    main()
