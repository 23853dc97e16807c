"""Earnings of models on simulated nights, and accuracy of off-policy evaluation.

    python benchmarks/bidding_nights.py                  # miscalibration and policies: two minutes
    nice python benchmarks/bidding_nights.py --models    # and three models on ten nights
    nice python benchmarks/bidding_nights.py --models --nights 3 --rows 20000

Auctions are second price, a click is worth 0.03 USD, and intervals are over users. Trained models
stay below --folder.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from datetime import date, timedelta
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from environments import CACHE
from nightbid.bidding.auctions import Auctions, Rules
from nightbid.bidding.candidates import Offers
from nightbid.bidding.money import Earnings, compare
from nightbid.bidding.off_policy import probabilities
from nightbid.bidding.policies import evaluate
from nightbid.bidding.replay import replay
from nightbid.config.load import load_pipeline
from nightbid.config.policy import Policy
from nightbid.config.sources import SimulatorSource
from nightbid.data.simulator.source import SimulatorLogs
from nightbid.night.record import RunRecord
from nightbid.night.stages import NIGHT
from nightbid.runner import run_stage
from nightbid.storage.workspace import Workspace

FIRST = date(2026, 1, 12)
VALUE = 0.03
FACTORS = {"1": "", "0.9": "", "1.1": "", "0.7": "3 to 6 %", "1.3": "3 to 6 %", "2": "22 ± 3 %"}
MODELS = ("dcn_v2", "gradient_boosted_trees")
STAGES = ("sample", "featurize", "train", "train_baseline", "evaluate", "replay")
WORLDS, DAYS, TRIALS, ROWS = 10, 5, 10, 3000
COVERED = ("ips", "snips", "dr", "sndr")


def miscalibration(nights: int) -> None:
    logs = SimulatorLogs(SimulatorSource())
    lost = {name: [] for name in FACTORS}
    for number in range(nights):
        table = pa.Table.from_batches(list(logs.batches(FIRST + timedelta(number))))
        true = table["p_click_true"].to_numpy()
        auctions = Auctions.checked(
            price=table["win_price"].to_numpy(), floor=table["floor_price"].to_numpy(),
            click=table["click"].to_numpy(), true_probability=true,
        )  # fmt: skip
        surpluses = {}
        for name in FACTORS:
            result = replay(auctions, 1000 * VALUE * float(name) * true, Rules())
            earnings = Earnings.of(auctions, result, value=VALUE)
            surpluses[name] = earnings.summary()["expected_value"] - earnings.spend.sum()
        for name, surplus in surpluses.items():
            lost[name].append(1 - surplus / surpluses["1"])
    print(f"\ntrue probabilities × factor, {nights} nights: share of the truth's profit lost")
    for name, expected in FACTORS.items():
        shares = 100 * np.array(lost[name])
        print(f"  {name:>4}: {shares.mean():5.1f} %, {shares.min():.1f} to {shares.max():.1f}"
              f"{f'   [{expected}]' if expected else ''}")  # fmt: skip


def logged_day(seed: int, day: date) -> tuple[dict[str, np.ndarray], np.ndarray, float]:
    """Log a day of an exploring policy; return rows, users and the true value of another policy."""
    source = SimulatorSource(rows_per_day=TRIALS * ROWS, exploration=1.0, seed=seed)
    parts = [
        batch.select(["ad_id", "candidates", "candidates_true", "click", "propensity", "user_id"])
        for batch in SimulatorLogs(source).batches(day)
    ]
    table = pa.Table.from_batches(parts)
    offers = Offers.of(table["ad_id"], table["candidates"])
    true = table["candidates_true"].combine_chunks().flatten().to_numpy()
    logits = np.log(true) - np.log1p(-true)
    # The model is underconfident, and its error differs between ads.
    noise = np.random.default_rng(seed).normal(0, 0.5, len(offers.items))
    model = 1 / (1 + np.exp(-(0.7 * logits - 0.8 + noise[offers.codes])))
    chance = probabilities(offers, model, Policy(temperature=0.5))
    rows = {
        "reward": table["click"].to_numpy().astype(float),
        "logged": table["propensity"].to_numpy(),
        "candidate": np.minimum(offers.sums(chance * offers.is_logged), 1),
        "predicted": offers.sums(model * offers.is_logged),
        "predicted_policy": offers.sums(chance * model),
    }
    user = np.unique(table["user_id"].combine_chunks().to_numpy(zero_copy_only=False),
                     return_inverse=True)[1]  # fmt: skip
    return rows, user, float(offers.sums(chance * true).mean())


def policies() -> None:
    """Evaluate a policy on nights of several days and worlds, each with its own true value."""
    covered: Counter[str] = Counter()
    nights, truths, clicks = 0, [], []
    for number in range(WORLDS * DAYS):
        rows, user, truth = logged_day(number // DAYS, FIRST + timedelta(number % DAYS))
        trials = len(user) // ROWS
        for trial in range(trials):
            part = {name: values[trial::trials] for name, values in rows.items()}
            evaluation = evaluate(**part, users=user[trial::trials])
            for name in COVERED:
                estimate = evaluation.estimates[name]
                covered[name] += estimate.low <= truth <= estimate.high
        nights += trials
        truths.append(truth)
        clicks.append(rows["reward"].mean())
    print(f"\na softmax policy, logged by another: {nights} nights of {ROWS:,} rows, of"
          f" {WORLDS * DAYS} days in {WORLDS} worlds; truth {min(truths):.4f} to"
          f" {max(truths):.4f}, logged {min(clicks):.4f} to {max(clicks):.4f}")  # fmt: skip
    for name in COVERED:
        print(f"  {name:6} covers the truth {100 * covered[name] / nights:.1f} %   [93 to 97 %]")


def models(folder: Path, nights: int, rows: int) -> None:
    parts: list[dict[str, np.ndarray]] = []
    for number in range(nights):
        columns: dict[str, np.ndarray] = {}
        for architecture in MODELS:
            spec = load_pipeline(
                Path(__file__).parents[1] / "include" / "pipelines" / "ctr.yaml",
                [f"model.architecture={architecture}", f"source.rows_per_day={rows}"],
            )
            run = RunRecord.start(Workspace(folder / "ws"), spec, FIRST + timedelta(number))
            for stage in NIGHT:
                if stage.name in STAGES:
                    result = run_stage(stage, spec, run, cache_folder=folder / "cache")
            auction_table = pq.read_table(folder / "ws" / result.uri / "auctions.parquet")
            columns |= {name: auction_table[name].to_numpy() for name in auction_table.column_names}
            columns[architecture] = columns.pop("candidate")
            print(f"  {run.date} {architecture}: {result.manifest.summary}", flush=True)
        columns["logistic_regression"] = columns.pop("baseline")
        parts.append(columns)
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    auctions = Auctions.checked(
        price=whole["price"], floor=whole["floor"], click=whole["click"],
        user=whole["user"], true_probability=whole["truth"],
    )  # fmt: skip
    true, earned, loss = whole["truth"], {}, {}
    for name in ("truth", *MODELS, "logistic_regression"):
        p = np.clip(whole[name], 1e-7, 1 - 1e-7)
        # Expectation over clicks: the same auctions without the noise of clicks.
        loss[name] = float(-(true * np.log(p) + (1 - true) * np.log1p(-p)).mean())
        result = replay(auctions, 1000 * VALUE * whole[name], Rules())
        earned[name] = Earnings.of(auctions, result, value=VALUE)
    users, days = whole["user"].view(np.int64), whole["day"]
    order = sorted(loss, key=loss.__getitem__)
    compared = compare(earned, users, days=days, replicates=500, seed=0)
    print(f"\n{nights} nights, {len(auctions):,} auctions: expected surplus in USD, 95 % over"
          f" {compared['users']:,} users and {compared['resampled_days']} days")  # fmt: skip
    print(f"  {'':24}{'log loss':>10}{'surplus':>10}   truth less this; this less the next")
    for position, name in enumerate(order):
        line = f"  {name:24}{loss[name]:10.5f}"
        line += f"{compared['bidders'][name]['expected_surplus']:10.2f}   "
        if name != "truth":
            line += interval(compared["differences"][name]["expected_surplus"])
        if position and position + 1 < len(order):
            pair = {bidder: earned[bidder] for bidder in order[position : position + 2]}
            against = compare(pair, users, days=days, replicates=500, seed=0)["differences"]
            line += f"; {interval(against[order[position + 1]]['expected_surplus'])}"
        print(line)


def interval(each: dict[str, float]) -> str:
    return f"{each['value']:+.2f} [{each['low']:+.2f}, {each['high']:+.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", action="store_true")
    parser.add_argument("--nights", type=int, default=10)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--folder", type=Path, default=CACHE / "bidding")
    options = parser.parse_args()
    miscalibration(options.nights)
    policies()
    if options.models:
        models(options.folder, options.nights, options.rows)


if __name__ == "__main__":
    main()
