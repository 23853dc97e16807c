"""A night at a billion impressions a day, computed from what this code costs per row here.

    python benchmarks/scale.py --measure 60000 240000    # two nights of ctr; keeps what they cost
    python benchmarks/scale.py                           # the tables of docs/scale.md

Two nights of different size tell what a stage costs once, and what per row. Prices are of the price
book, at today's date. Time on many workers is simulated: tasks of uneven length, machines that
start late or are taken away.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from nightbid.cost.pricing import default_book, price_lines, price_storage
from nightbid.cost.training_jobs import Pool, hourly_usd
from nightbid.manifest import Manifest
from nightbid.runs import RunRecord
from nightbid.workspace import Workspace

HERE = Path(__file__).parent
PIPELINE = HERE.parent / "include" / "pipelines" / "ctr.yaml"
MEASURED = HERE / "scale.json"
NIGHT_OF = date(2026, 1, 12)
MILLION, BILLION, GIB = 1e6, 1e9, 2**30
VCPUS, MEMORY_GB = 4, 15
"""Of an n1-standard-4: the worker of both services."""
BY_ROWS = ("sample", "featurize", "train", "train_baseline", "evaluate")
"""Stages whose work grows with the rows; the others read profiles, models and samples."""


@dataclass(frozen=True)
class Traffic:
    """What is assumed of the logs."""

    per_day: float = BILLION
    train_days: int = 7
    negative_rate: float = 0.1
    users_per_day: float = 50e6
    users_in_window: float = 150e6
    """Distinct over the training days."""
    known_users: float = 60e6
    """Of these often enough to have an embedding of their own."""
    ads: float = 5e6
    hours: float = 6.0
    """That the night may take."""


# --- Measuring ---------------------------------------------------------------------------------


def measure(sizes: list[int]) -> None:
    """Run a night of each size from Parquet files, and keep what its stages used."""
    found = []
    for size in sorted(sizes):
        with tempfile.TemporaryDirectory() as folder:
            # What does not grow with the rows is measured in the small night alone.
            until = "evaluate" if found else "load_test"
            found.append(night(Path(folder), size, until))
    distinct = [counted(int(size)) for size in (2.5e6, 10e6)]
    kept = {"taken": datetime.now(UTC).date().isoformat(), "nights": found, "distinct": distinct}
    MEASURED.write_text(json.dumps(kept, indent=1) + "\n")


def night(folder: Path, per_day: int, until: str) -> dict[str, Any]:
    """Run one night up to a stage; what each stage read, wrote and used."""
    tree = yaml.safe_load(PIPELINE.read_text())
    days = sum(tree["window"].values())
    environment = {
        **os.environ,
        "NIGHTBID_WORKSPACE": str(folder / "workspace"),
        "NIGHTBID_CACHE": str(folder / "cache"),
        "NIGHTBID_TRACKING": "",
    }
    first = NIGHT_OF - timedelta(days=days - 1)
    cli = [sys.executable, "-m", "nightbid"]
    subprocess.run(
        [*cli, "data", "write", "ctr", "--to", str(folder / "logs"), "--date", str(first),
         "--days", str(days), "--set", f"source.rows_per_day={per_day}"],
        env=environment, check=True,
    )  # fmt: skip
    tree["source"] = {
        "kind": "parquet",
        "folder": str(folder / "logs"),
        "outcomes": ["click", "conversion", "cost"],
    }
    (folder / "pipelines").mkdir()
    (folder / "pipelines" / "ctr.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    subprocess.run(
        [*cli, "run", "ctr", "--date", str(NIGHT_OF), "--until", until,
         "--set", "budget.run_usd=null"],
        env={**environment, "NIGHTBID_PIPELINES": str(folder / "pipelines")}, check=True,
    )  # fmt: skip
    workspace = Workspace(folder / "workspace")
    stages = {}
    for record in RunRecord.load(workspace, "ctr", f"ctr-{NIGHT_OF}").records():
        path = workspace.at(record.uri) / "manifest.json"
        manifest = Manifest.model_validate_json(path.read_text())
        stages[record.stage] = {
            "rows": manifest.rows.read,
            "cpu_seconds": manifest.usage.cpu_seconds,
            "bytes": sum(each.size for each in manifest.files),
        }
        if record.stage == "sample":
            stages["sample"]["label_rate"] = manifest.metrics["label_rate"]
            sampled = path.parent
        if record.stage == "featurize":
            stages["featurize"] |= held(sampled, path.parent)
        if record.stage == "train":
            stages["train"]["epochs"] = manifest.metrics["epochs"]
    return {"rows_per_day": per_day, "stages": stages}


def _nbytes(output: Path) -> float:
    """Of a row of the evaluation days in memory."""
    path = next(output.glob("split=evaluate/*/*.parquet"))
    table = pq.read_table(path, partitioning=None)
    return float(table.nbytes / len(table))


def held(sampled: Path, featurized: Path) -> dict[str, Any]:
    """Bytes that rows take in the memory of a training, and keys of the past in that of Beam."""
    from nightbid.features.fitted import FittedFeatures
    from nightbid.models.layout import Layout
    from nightbid.schema import FeatureSchema
    from nightbid.training.data import read_examples

    rows = read_examples(
        featurized, "validate", Layout(FeatureSchema.load(featurized / "fitted")), serving=True
    )
    inputs = rows.inputs
    arrays = (inputs.ids, inputs.numbers, inputs.bag_weights, rows.labels, rows.weights, rows.given)
    learned = FittedFeatures.load(featurized / "fitted").learned.values()
    history = [each.history for each in learned if each.history is not None]
    return {
        "memory_per_row": sum(each.nbytes for each in arrays) / len(rows),
        "ids_per_row": inputs.ids.shape[1],
        "evaluated_per_row": sum(_nbytes(each) for each in (sampled, featurized)),
        "history_bytes_per_key": sum(t.nbytes for t in history) / sum(len(t) for t in history),
    }


def counted(distinct: int) -> dict[str, float]:
    """CPU seconds of counting so many different tokens in one process, as the merge does."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(HERE / "memory.py"), "--one", "distinct", str(distinct)]
        done = subprocess.run([*command, folder], stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return {"tokens": distinct, "cpu_seconds": found["cpu"], "peak_mib": found["peak_mib"]}


# --- From two nights to one night of any size --------------------------------------------------


@dataclass(frozen=True)
class Line:
    """CPU seconds of a stage: once, and per row."""

    once: float
    per_row: float

    @classmethod
    def through(cls, points: list[tuple[float, float]]) -> Line:
        """Fit a line through the smallest and the largest night; neither part is negative."""
        (small, low), (large, high) = min(points), max(points)
        slope = max((high - low) / (large - small), 0.0) if large > small else 0.0
        return cls(max(low - slope * small, 0.0), slope)


class Costs:
    """What the measured nights tell."""

    def __init__(self, measured: dict[str, Any]) -> None:
        self.taken = measured["taken"]
        self.nights = sorted(measured["nights"], key=lambda each: each["rows_per_day"])
        self.largest = self.nights[-1]["stages"]
        self.lines = {
            name: Line.through(
                [
                    (each["stages"][name]["rows"], each["stages"][name]["cpu_seconds"])
                    for each in self.nights
                ]
            )
            for name in BY_ROWS
        }
        self.rest = sum(
            found["cpu_seconds"]
            for name, found in self.nights[0]["stages"].items()
            if name not in BY_ROWS
        )
        """CPU seconds of all stages whose work does not grow."""
        distinct = [(each["tokens"], each["cpu_seconds"]) for each in measured["distinct"]]
        self.merge = Line.through(distinct)
        self.label_rate = self.largest["sample"]["label_rate"]

    def bytes_per_row(self, stage: str) -> float:
        """Of its output, per row that it read."""
        return float(self.largest[stage]["bytes"] / self.largest[stage]["rows"])


def rows_of(traffic: Traffic, costs: Costs) -> dict[str, float]:
    """Rows that each stage reads in one night: sampling thins out the training days alone."""
    kept = costs.label_rate + (1 - costs.label_rate) * traffic.negative_rate
    train = traffic.per_day * traffic.train_days * kept
    return {
        "sample": traffic.per_day * (traffic.train_days + 2),
        "featurize": train + 2 * traffic.per_day,
        "train": train + traffic.per_day,
        "train_baseline": train + traffic.per_day,
        "evaluate": traffic.per_day,
    }


# --- Simulating many workers -------------------------------------------------------------------


def simulate(
    cpu_hours: float,
    workers: int,
    draw: np.random.Generator,
    *,
    lost_per_hour: float = 0.0,
    tasks_per_thread: int = 20,
) -> tuple[float, float]:
    """Play one pass of a Beam job: hours until its last task ends, and worker hours paid.

    Every vCPU takes the next task when it is free. Tasks are uneven (lognormal, sigma 0.5);
    machines start within 1 to 4 minutes; a machine that is taken away comes back after 3 minutes
    and does its tasks again.
    """
    threads = workers * VCPUS
    count = threads * tasks_per_thread
    waiting = list(draw.lognormal(-0.125, 0.5, count) * cpu_hours / count)
    start = np.repeat(draw.uniform(1, 4, workers) / 60, VCPUS)
    free = [(float(at), thread) for thread, at in enumerate(start)]
    heapq.heapify(free)
    mean = 1 / lost_per_hour if lost_per_hour else 1e9
    losses = draw.exponential(mean, (workers, 20)).cumsum(axis=1)
    end = 0.0
    while waiting:
        at, thread = heapq.heappop(free)
        length, machine = waiting.pop(), losses[thread // VCPUS]
        lost = machine[min(machine.searchsorted(at), len(machine) - 1)]
        if at <= lost < at + length:
            waiting.append(length)
            heapq.heappush(free, (float(lost) + 3 / 60, thread))
            continue
        end = max(end, at + length)
        heapq.heappush(free, (at + length, thread))
    return end, end * workers


def dataflow_usd(worker_hours: float, shuffle_gb: float) -> Decimal:
    """Price worker hours and shuffled bytes at list price."""
    amounts = {
        "vcpu_hour": Decimal(str(worker_hours * VCPUS)),
        "memory_gb_hour": Decimal(str(worker_hours * MEMORY_GB)),
        "shuffle_gb": Decimal(str(shuffle_gb)),
    }
    lines = price_lines(
        amounts,
        default_book(),
        at=datetime.now(UTC).date(),
        where="cloud",
        service="dataflow_batch",
    )
    return sum((each.amount for each in lines.values()), Decimal(0))


# --- Tables ------------------------------------------------------------------------------------


def table(head: list[str], lines: list[list[str]]) -> None:
    print("| " + " | ".join(head) + " |")
    print("| --- |" + " ---: |" * (len(head) - 1))
    for line in lines:
        print("| " + " | ".join(line) + " |")
    print()


def tables(costs: Costs, traffic: Traffic) -> None:
    today = datetime.now(UTC).date()
    rows = rows_of(traffic, costs)
    sizes = " and ".join(f"{each['rows_per_day']:,}" for each in costs.nights)
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
    ids = costs.largest["featurize"]["ids_per_row"]
    per_row = costs.largest["featurize"]["memory_per_row"]
    keys = traffic.users_per_day * (traffic.train_days + 2)
    merged = costs.merge.per_row * traffic.users_in_window
    weights = (traffic.known_users + traffic.ads) * 16 * 4
    limits = [
        ("rows of a training, twice for the shuffle", rows["train"] * per_row * 2),
        ("rows of the evaluation day, raw and featurized",
         rows["evaluate"] * costs.largest["featurize"]["evaluated_per_row"]),
        ("history by user and day, in every Beam process",
         keys * costs.largest["featurize"]["history_bytes_per_key"]),
        ("embeddings and two moments, on every trainer", weights * 3),
    ]  # fmt: skip
    table(
        ["what", "GB", "rows a day that fit in 64 GB"],
        [
            [name, f"{size / 1e9:,.0f}",
             f"{min(traffic.per_day * 64e9 / size, 99 * BILLION) / MILLION:,.0f} M"]
            for name, size in limits
        ]
        + [[f"merge of {traffic.users_in_window / MILLION:,.0f} M user ids: {merged / 3600:.1f} h"
            " of one core", f"{traffic.users_in_window * 24 / 1e9:,.0f} on disk",
            f"{traffic.per_day * 1800 / merged / MILLION:,.0f} M (in half an hour)"]],
    )  # fmt: skip

    print("Training, each worker an n1-standard-4.\n")
    batch, lines, trained = 65_536, [], Decimal(0)
    for workers in (4, 16, 32, 64):
        compute = hours["train"] / (workers * VCPUS)
        # Every worker gathers the rows of all others' gradients, over 10 Gbit/s.
        steps = rows["train"] * costs.largest["train"]["epochs"] / batch
        network = steps * batch * ids * (16 * 4 + 8) / (10e9 / 8) / 3600
        total = compute + network
        usd = hourly_usd([Pool("n1-standard-4", workers)]).amount * Decimal(str(total))
        fits = "yes" if rows["train"] * per_row * 2 / workers < 0.7 * MEMORY_GB * 1e9 else "no"
        if not trained and fits == "yes" and total < traffic.hours / 2:
            trained = usd
        lines.append(
            [str(workers), f"{compute:.1f}", f"{network:.1f}", f"{total:.1f}", f"{usd:,.0f}", fits]
        )
    table(
        ["workers", "hours computing", "hours exchanging", "hours", "USD",
         "a share of the rows fits"],
        lines,
    )  # fmt: skip

    each_row = costs.bytes_per_row("sample") + costs.bytes_per_row("featurize")
    kept = rows["featurize"] * each_row
    storage = price_storage(int(kept), 14, default_book(), at=today).amount
    other = hours["evaluate"] + costs.rest / 3600
    machine = price_lines(
        {"vcpu_hour": Decimal(str(other)), "memory_gb_hour": Decimal(str(other * 4))},
        default_book(), at=today, where="cloud", service="compute_e2",
    )  # fmt: skip
    machine_usd = sum((each.amount for each in machine.values()), Decimal(0))
    print("Dollars of one night, at list price.\n")
    parts = [
        ("sampling and featurization, Dataflow", chosen),
        ("training, custom job", trained),
        ("everything else, a machine of Airflow's", machine_usd),
        (f"{kept / 1e12:.1f} TB kept for 14 days", storage),
    ]
    total_usd = sum((usd for _, usd in parts), Decimal(0))
    table(["part", "USD"], [[n, f"{u:,.2f}"] for n, u in [*parts, ("together", total_usd)]])
    print(
        f"That is {total_usd / Decimal(traffic.per_day / MILLION):.4f} USD per million impressions."
    )


def shuffled_gb(traffic: Traffic, costs: Costs) -> float:
    """What goes between workers: row groups stay where they are, their statistics are merged.

    Each group of a million rows sends its distinct tokens (24 bytes) and keys of the past.
    """
    groups = math.ceil(rows_of(traffic, costs)["featurize"] / MILLION)
    distinct = min(MILLION, traffic.users_in_window)
    sent = distinct * (24 + costs.largest["featurize"]["history_bytes_per_key"])
    return groups * sent / GIB


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
