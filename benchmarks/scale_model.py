"""Model of a night of any size on many workers, from measured costs per row.

The time on many workers is simulated, with tasks of uneven length and machines that start late or
are preempted. Prices come from the price book, at today's date.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
from nightbid.cost.price_book import default_book
from nightbid.cost.pricing import price_lines
from nightbid.jobs.vertex_meter import MachinePool, hourly_usd

MILLION, BILLION, GIB = 1e6, 1e9, 2**30
VCPUS, MEMORY_GB = 4, 15
"""Size of an n1-standard-4, the worker of both services."""
BY_ROWS = ("sample", "featurize", "train", "train_baseline", "evaluate")
"""Stages whose work grows with the rows; the others read profiles, models and samples."""
BATCH = 65_536
"""Rows that the workers of a training share at each step."""
WIDTHS = {"train": 16, "train_baseline": 1}
"""Numbers that a model stores per id."""


@dataclass(frozen=True)
class Traffic:
    """Assumptions about the logs."""

    per_day: float = BILLION
    train_days: int = 7
    negative_rate: float = 0.1
    users_per_day: float = 50e6
    users_in_window: float = 150e6
    """Distinct users over the training days."""
    known_users: float = 60e6
    """Users who appear often enough to have their own embedding."""
    ads: float = 5e6
    hours: float = 6.0
    """Hours that the night may take."""


@dataclass(frozen=True)
class Line:
    """CPU seconds of a stage: fixed, and per row."""

    once: float
    per_row: float

    @classmethod
    def through(cls, points: list[tuple[float, float]]) -> Line:
        """Fit a line through the smallest and the largest night; neither part is negative."""
        (small, low), (large, high) = min(points), max(points)
        slope = max((high - low) / (large - small), 0.0) if large > small else 0.0
        return cls(max(low - slope * small, 0.0), slope)


class Costs:
    """Costs of the measured nights."""

    def __init__(self, measured: dict[str, Any]) -> None:
        self.taken = measured["taken"]
        self.nights = sorted(measured["nights"], key=lambda night: night["rows_per_day"])
        self.largest = self.nights[-1]["stages"]
        self.lines = {
            name: Line.through(
                [
                    (night["stages"][name]["rows"], night["stages"][name]["cpu_seconds"])
                    for night in self.nights
                ]
            )
            for name in BY_ROWS
        }
        self.rest = sum(
            usage["cpu_seconds"]
            for name, usage in self.nights[0]["stages"].items()
            if name not in BY_ROWS
        )
        """CPU seconds of all stages whose work does not grow with the rows."""
        distinct = [(count["tokens"], count["cpu_seconds"]) for count in measured["distinct"]]
        self.merge = Line.through(distinct)
        self.label_rate = self.largest["sample"]["label_rate"]

    def bytes_per_row(self, stage: str) -> float:
        """Return the bytes of a stage's output per row that it read."""
        return float(self.largest[stage]["bytes"] / self.largest[stage]["rows"])


def learned_rows(traffic: Traffic, costs: Costs) -> float:
    """Return the sampled rows of the training days, which alone produce gradients."""
    sampled_share = costs.label_rate + (1 - costs.label_rate) * traffic.negative_rate
    return traffic.per_day * traffic.train_days * sampled_share


def rows_of(traffic: Traffic, costs: Costs) -> dict[str, float]:
    """Return the rows that each stage reads in a night; only training days are downsampled."""
    train = learned_rows(traffic, costs)
    return {
        "sample": traffic.per_day * (traffic.train_days + 2),
        "featurize": train + 2 * traffic.per_day,
        "train": train + traffic.per_day,
        "train_baseline": train + traffic.per_day,
        "evaluate": traffic.per_day,
    }


def simulate(
    cpu_hours: float,
    workers: int,
    draw: np.random.Generator,
    *,
    lost_per_hour: float = 0.0,
    tasks_per_thread: int = 20,
) -> tuple[float, float]:
    """Simulate one pass of a Beam job; return hours to its last task's end, and paid worker hours.

    Every free vCPU takes the next task. Tasks are uneven (lognormal, sigma 0.5). Machines start
    within 1 to 4 minutes. A preempted machine returns after 3 minutes and repeats its task.
    """
    threads = workers * VCPUS
    count = threads * tasks_per_thread
    waiting = list(draw.lognormal(-0.125, 0.5, count) * cpu_hours / count)
    start = np.repeat(draw.uniform(1, 4, workers) / 60, VCPUS)
    free = [(float(moment), thread) for thread, moment in enumerate(start)]
    heapq.heapify(free)
    mean = 1 / lost_per_hour if lost_per_hour else 1e9
    losses = draw.exponential(mean, (workers, 20)).cumsum(axis=1)
    end = 0.0
    while waiting:
        moment, thread = heapq.heappop(free)
        length, machine = waiting.pop(), losses[thread // VCPUS]
        lost = machine[min(machine.searchsorted(moment), len(machine) - 1)]
        if moment <= lost < moment + length:
            waiting.append(length)
            heapq.heappush(free, (float(lost) + 3 / 60, thread))
            continue
        end = max(end, moment + length)
        heapq.heappush(free, (moment + length, thread))
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
    return sum((line.amount for line in lines.values()), Decimal(0))


def shuffled_gb(traffic: Traffic, costs: Costs) -> float:
    """Return the GiB sent between workers to merge statistics; row groups stay in place.

    Each group of a million rows sends its distinct tokens (24 bytes each) and its history keys.
    """
    groups = math.ceil(rows_of(traffic, costs)["featurize"] / MILLION)
    distinct = min(MILLION, traffic.users_in_window)
    sent = distinct * (24 + costs.largest["featurize"]["history_bytes_per_key"])
    return groups * sent / GIB


@dataclass(frozen=True)
class Training:
    """Estimate of a training on several workers, each an n1-standard-4."""

    workers: int
    computing: float
    """Hours of computing."""
    exchanging: float
    """Hours in which every worker gathers the other workers' gradient rows, over 10 Gbit/s."""
    fits: bool
    """Whether a share of the rows fits in 70 % of a worker's memory."""

    @property
    def hours(self) -> float:
        """Hours from the first step to the last."""
        return self.computing + self.exchanging

    @property
    def usd(self) -> Decimal:
        """Cost of all workers."""
        return hourly_usd([MachinePool("n1-standard-4", self.workers)]).amount * Decimal(
            str(self.hours)
        )


def training(stage: str, workers: int, traffic: Traffic, costs: Costs) -> Training:
    """Compute one training of the night.

    Args:
        stage: `train` or `train_baseline`.
        workers: Number of workers that share its batches.
        traffic: Assumptions about the logs.
        costs: Measured costs.
    """
    rows, line = rows_of(traffic, costs)[stage], costs.lines[stage]
    ids = costs.largest["featurize"]["ids_per_row"]
    epochs = costs.largest["train"]["epochs"]
    sent = learned_rows(traffic, costs) * epochs * ids * (WIDTHS[stage] * 4 + 8)
    held = rows * costs.largest["featurize"]["memory_per_row"] * 2
    return Training(
        workers,
        computing=(line.once + line.per_row * rows) / 3600 / (workers * VCPUS),
        exchanging=sent / (10e9 / 8) / 3600,
        fits=held / workers < 0.7 * MEMORY_GB * 1e9,
    )
