"""Projection of a night at a billion impressions a day from measured costs per row.

    python benchmarks/scale.py --measure 60000 240000    # two nights of ctr; keeps what they cost
    python benchmarks/scale.py                           # the tables of docs/scale.md

`scale_measure.py` runs the measured nights; `scale_model.py` computes and simulates the projection.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
from nightbid.cost.price_book import default_book
from nightbid.cost.pricing import price_lines, price_storage
from nightbid.evaluation.rows import ROW_BYTES
from nightbid.training.memory import COPIES
from scale_measure import MEASURED, measure
from scale_model import (
    BILLION,
    BY_ROWS,
    MILLION,
    VCPUS,
    Costs,
    Traffic,
    dataflow_usd,
    rows_of,
    shuffled_gb,
    simulate,
    training,
)


def table(head: list[str], lines: list[list[str]]) -> None:
    print("| " + " | ".join(head) + " |")
    print("| --- |" + " ---: |" * (len(head) - 1))
    for line in lines:
        print("| " + " | ".join(line) + " |")
    print()


def tables(costs: Costs, traffic: Traffic) -> None:
    today = datetime.now(UTC).date()
    rows = rows_of(traffic, costs)
    sizes = " and ".join(f"{night['rows_per_day']:,}" for night in costs.nights)
    print(
        f"Measured on {costs.taken}: nights of ctr with {sizes} rows a day, from Parquet files.\n"
    )
    table(
        ["stage", "CPU s, once", "CPU s per million rows", "bytes written per row"],
        [
            [name, f"{costs.lines[name].once:.1f}", f"{costs.lines[name].per_row * MILLION:.1f}",
             f"{costs.bytes_per_row(name):.0f}" if name in ("sample", "featurize") else ""]
            for name in BY_ROWS
        ],
    )  # fmt: skip

    print(f"One night at {traffic.per_day:,.0f} impressions a day.\n")
    hours = {name: (costs.lines[name].once + costs.lines[name].per_row * rows[name]) / 3600
             for name in BY_ROWS}  # fmt: skip
    table(
        ["stage", "rows", "CPU hours", f"rows a day by {VCPUS} cores in {traffic.hours:.0f} h"],
        [
            [name, f"{rows[name] / BILLION:.2f} B", f"{hours[name]:,.0f}",
             f"{traffic.per_day * traffic.hours * VCPUS / hours[name] / MILLION:,.0f} M"]
            for name in BY_ROWS
        ],
    )  # fmt: skip

    print("Sampling and featurization on Dataflow workers (simulated 10 times each).\n")
    draw = np.random.default_rng(1)
    work = hours["sample"] + hours["featurize"]
    shuffle = shuffled_gb(traffic, costs)
    lines, chosen = [], Decimal(0)
    for workers in (25, 50, 100, 200, 400):
        steady = [simulate(work, workers, draw) for _ in range(10)]
        spot = [simulate(work, workers, draw, lost_per_hour=0.2)[0] for _ in range(10)]
        usd = dataflow_usd(float(np.median([paid for _, paid in steady])), shuffle)
        ends = [end for end, _ in steady]
        if not chosen and max(ends) < traffic.hours / 2:
            chosen = usd
        lines.append(
            [str(workers), f"{np.median(ends):.2f}", f"{max(ends):.2f}", f"{max(spot):.2f}",
             f"{usd:,.0f}"]
        )  # fmt: skip
    table(
        [
            "workers (4 vCPU)",
            "hours",
            "slowest",
            "slowest, losing a fifth an hour",
            "USD",
        ],
        lines,
    )

    print("What one process has to hold or do.\n")
    per_row = costs.largest["featurize"]["memory_per_row"]
    keys = traffic.users_per_day * (traffic.train_days + 2)
    merged = costs.merge.per_row * traffic.users_in_window
    weights = (traffic.known_users + traffic.ads) * 16 * 4
    limits = [
        ("rows of a training in memory; more stream", rows["train"] * per_row * COPIES),
        ("scores of the evaluation day; of more, a share of the users",
         rows["evaluate"] * ROW_BYTES),
        ("history by user and day, a file that each machine maps",
         keys * costs.largest["featurize"]["history_bytes_per_key"]),
        ("embeddings and two moments, on every trainer", weights * 3),
    ]  # fmt: skip
    table(
        ["what", "GB", "rows a day that fit in 64 GB"],
        [
            [name, f"{size / 1e9:,.0f}{' on disk' * name.endswith('maps')}",
             f"{min(traffic.per_day * 64e9 / size, 99 * BILLION) / MILLION:,.0f} M"]
            for name, size in limits
        ]
        + [[f"merge of {traffic.users_in_window / MILLION:,.0f} M user ids: {merged / 3600:.1f} h"
            " of one core", f"{traffic.users_in_window * 24 / 1e9:,.0f} on disk",
            f"{traffic.per_day * 1800 / merged / MILLION:,.0f} M (in half an hour)"]],
    )  # fmt: skip

    print("Training, each worker an n1-standard-4.\n")
    trainings = [training("train", workers, traffic, costs) for workers in (4, 16, 32, 64)]
    lines = [
        [str(job.workers), f"{job.computing:.1f}", f"{job.exchanging:.1f}",
         f"{job.hours:.1f}", f"{job.usd:,.0f}", "in memory" if job.fits else "stream"]
        for job in trainings
    ]  # fmt: skip
    in_time = [job for job in trainings if job.hours < traffic.hours * 0.75]
    trained = in_time[0] if in_time else trainings[-1]
    # The baseline is a separate job with the same number of workers, because it has the same rows.
    baseline = training("train_baseline", trained.workers, traffic, costs)
    table(
        ["workers", "hours computing", "hours exchanging", "hours", "USD",
         "each worker's rows"],
        lines,
    )  # fmt: skip
    if not in_time:
        print("None of these trains in three quarters of the night; the last is counted.\n")

    row_bytes = costs.bytes_per_row("sample") + costs.bytes_per_row("featurize")
    stored_bytes = rows["featurize"] * row_bytes
    storage = price_storage(int(stored_bytes), 14, default_book(), at=today).amount
    other = hours["evaluate"] + costs.rest / 3600
    machine = price_lines(
        {"vcpu_hour": Decimal(str(other)), "memory_gb_hour": Decimal(str(other * 4))},
        default_book(), at=today, where="cloud", service="compute_e2",
    )  # fmt: skip
    machine_usd = sum((line.amount for line in machine.values()), Decimal(0))
    print("Dollars of one night, at list price.\n")
    parts = [
        ("sampling and featurization, Dataflow", chosen),
        (f"training, custom job of {trained.workers} workers", trained.usd),
        ("training the baseline, custom job", baseline.usd),
        ("everything else, a machine of Airflow's", machine_usd),
        (f"{stored_bytes / 1e12:.1f} TB kept for 14 days", storage),
    ]
    total_usd = sum((usd for _, usd in parts), Decimal(0))
    table(["part", "USD"], [[n, f"{u:,.2f}"] for n, u in [*parts, ("together", total_usd)]])
    print(
        f"That is {total_usd / Decimal(traffic.per_day / MILLION):.4f} USD per million impressions."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", type=int, nargs=2, metavar="ROWS_PER_DAY")
    parser.add_argument("--per-day", type=float, default=BILLION)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure)
    share, most = options.per_day / BILLION, Traffic()
    traffic = Traffic(
        per_day=options.per_day,
        users_per_day=most.users_per_day * share,
        users_in_window=most.users_in_window * share,
        known_users=most.known_users * share,
        ads=most.ads * share,
    )
    tables(Costs(json.loads(MEASURED.read_text())), traffic)


if __name__ == "__main__":
    main()
