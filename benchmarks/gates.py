"""Clean nights through the raw gate's judgement: false alarms, and seconds per night.

    python benchmarks/gates.py --nights 20 --rows 2000 --seed 7

The rows come from a small generator with a daily and weekly rhythm (below), so that the figure
does not depend on the simulator; seeds are an argument, because limits must not be fitted to one.
Faults are applied to the newest day. Prints the matrix of fault against verdict.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
from nightbid.config.gates import Gates
from nightbid.config.pipeline import PipelineSpec
from nightbid.gates.days import Day, Days
from nightbid.gates.judge import judge
from nightbid.gates.raw import measure_days
from nightbid.profile import Profile

HOUR = 3_600_000_000
EPOCH = date(1970, 1, 1)
WINDOW = 7
Columns = dict[str, np.ndarray]
Fault = Callable[[Columns, np.random.Generator], Columns]


def logs(day: date, rows: int, seed: int) -> Columns:
    random = np.random.default_rng([seed, day.toordinal()])
    rows = int(rows * (1 + 0.15 * (day.weekday() >= 5)) * random.normal(1, 0.03))
    weights = 2 + np.sin(np.arange(24) / 4)
    hours = random.choice(24, rows, p=weights / weights.sum())
    start = (day - EPOCH).days * 24 * HOUR
    platform = random.choice(["ios", "android", "web"], rows, p=[0.3, 0.5, 0.2]).astype(object)
    ad = random.zipf(1.5, rows) % 500
    rate = 0.05 * (1 + 2 * (platform == "ios")) * (1 + (ad % 7) / 3)
    return {
        "impression_id": random.integers(0, 2**50, rows),
        "time": start + hours * HOUR + random.integers(0, HOUR, rows),
        "user_id": random.integers(0, 1500, rows),
        "ad_id": ad,
        "advertiser": (ad % 40),
        "platform": platform,
        "price": random.lognormal(size=rows),
        "bid": random.gamma(2, 1, rows),
        "click": (random.random(rows) < rate).astype(np.int64),
    }


def profile_of(columns: Columns) -> Profile:
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    moment = table["time"].cast(pa.timestamp("us")).cast(pa.timestamp("us", "UTC"))
    table = table.set_column(table.column_names.index("time"), "time", moment)
    table = table.append_column("nb_key", table["impression_id"])
    table = table.append_column("nb_label", table["click"].cast(pa.float32()))
    return Profile.of(table.append_column("nb_time", moment))


def hour(columns: Columns) -> np.ndarray:
    return columns["time"] // HOUR % 24


def where(columns: Columns, keep: np.ndarray) -> Columns:
    return {name: values[keep] for name, values in columns.items()}


def twice(columns: Columns, chosen: np.ndarray, fresh_keys: bool = False) -> Columns:
    extra = where(columns, chosen)
    if fresh_keys:
        extra["impression_id"] = extra["impression_id"] + 2**51
    return {name: np.concatenate([columns[name], extra[name]]) for name in columns}


def some(random: np.random.Generator, columns: Columns, share: float) -> np.ndarray:
    return random.random(len(columns["time"])) < share


FAULTS: dict[str, Fault] = {
    "price in thousandths": lambda c, r: c | {"price": c["price"] * 1000},
    "2 % of prices in thousandths": lambda c, r: (
        c | {"price": np.where(some(r, c, 0.02), c["price"] * 1000, c["price"])}
    ),
    "clock 8 hours ahead": lambda c, r: c | {"time": c["time"] + 8 * HOUR},
    "clock 1 hour ahead": lambda c, r: c | {"time": c["time"] + HOUR},
    "clock a year ahead": lambda c, r: c | {"time": c["time"] + 365 * 24 * HOUR},
    "an hour twice": lambda c, r: twice(c, hour(c) == 12),
    "an hour twice, new keys": lambda c, r: twice(c, hour(c) == 12, fresh_keys=True),
    "an hour missing": lambda c, r: where(c, hour(c) != 12),
    "half an hour missing": lambda c, r: where(c, (hour(c) != 12) | some(r, c, 0.5)),
    "half the day missing": lambda c, r: where(c, hour(c) < 12),
    "a day of half the rows": lambda c, r: where(c, some(r, c, 0.5)),
    "ios traffic doubled": lambda c, r: twice(c, c["platform"] == "ios", fresh_keys=True),
    "ios traffic lost": lambda c, r: where(c, c["platform"] != "ios"),
    "5 % nulls in platform": lambda c, r: (
        c | {"platform": np.where(some(r, c, 0.05), None, c["platform"])}
    ),
    "empty platforms": lambda c, r: c | {"platform": np.where(some(r, c, 0.1), "", c["platform"])},
    "platform renamed": lambda c, r: (
        c | {"platform": np.where(c["platform"] == "web", "Web", c["platform"])}
    ),
    "NaN prices": lambda c, r: c | {"price": np.where(some(r, c, 0.05), np.nan, c["price"])},
    "price constant": lambda c, r: c | {"price": np.ones(len(c["price"]))},
    "negative prices": lambda c, r: c | {"price": -c["price"]},
    "price and bid swapped": lambda c, r: c | {"price": c["bid"], "bid": c["price"]},
    "stale join of platform": lambda c, r: c | {"platform": r.permutation(c["platform"])},
    "stale join of ad_id": lambda c, r: c | {"ad_id": r.permutation(c["ad_id"])},
    "label leaks into bid": lambda c, r: c | {"bid": c["bid"] + 3 * c["click"]},
    "labels delayed": lambda c, r: c | {"click": c["click"] * (hour(c) < 16)},
    "labels lost": lambda c, r: c | {"click": c["click"] * some(r, c, 0.4)},
    "labels inverted": lambda c, r: c | {"click": 1 - c["click"]},
    "a bot with 20 % of rows": lambda c, r: (
        c | {"user_id": np.where(some(r, c, 0.2), 7, c["user_id"])}
    ),
    "duplicates, 2 %": lambda c, r: twice(c, some(r, c, 0.02)),
    "column gone": lambda c, r: {name: values for name, values in c.items() if name != "bid"},
    "type changed to text": lambda c, r: c | {"bid": c["bid"].astype(str).astype(object)},
}


def night(newest: date, known: dict[date, Profile], fault: Profile | None, spec: PipelineSpec):
    dates = [newest - timedelta(days=back) for back in range(WINDOW - 1, -1, -1)]
    window = [Day(each, known[each], {"read": known[each].rows}) for each in dates]
    if fault is not None:
        window[-1] = Day(newest, fault, {"read": fault.rows})
    older = [
        Day(each, profile, {"read": profile.rows})
        for each, profile in known.items()
        if each < dates[0] and (newest - each).days <= 28
    ]
    facts = measure_days(Days(window, older, dates), spec)
    return judge("raw", facts, Gates(), newest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nights", type=int, default=20)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    spec = PipelineSpec.model_validate({"pipeline": "bench", "features": {"a": {"column": "a"}}})
    first = date(2026, 1, 1)
    days = [first + timedelta(days=each) for each in range(WINDOW + options.nights)]
    rows = {day: logs(day, options.rows, options.seed) for day in days}
    known = {day: profile_of(columns) for day, columns in rows.items()}
    started = time.perf_counter()
    counts = {"pass": 0, "warn": 0, "stop": 0}
    for newest in days[WINDOW:]:
        so_far = {day: known[day] for day in days if day <= newest}
        verdict = night(newest, so_far, None, spec)
        counts[verdict.verdict] += 1
        if verdict.verdict != "pass":
            print(f"  clean {newest}: {verdict.verdict}: {verdict.summary}")
    spent = (time.perf_counter() - started) / options.nights
    print(f"clean nights: {counts}, {spent:.2f} s each (seed {options.seed})")
    print(f"\n{'fault':32} {'gate raw':8}  what it said")
    caught = 0
    newest = days[-1]
    for name, fault in FAULTS.items():
        random = np.random.default_rng([options.seed, 1])
        verdict = night(newest, known, profile_of(fault(dict(rows[newest]), random)), spec)
        caught += verdict.verdict == "stop"
        print(f"{name:32} {verdict.verdict:8}  {verdict.summary[:110]}")
    print(f"\nstopped {caught} of {len(FAULTS)}")


if __name__ == "__main__":
    main()
