"""From what a night costs per row here to a night of any size on many workers.

Time on many workers is simulated: tasks of uneven length, machines that start late or are taken
away. Prices are of the price book, at today's date.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
from nightbid.cost.pricing import default_book, price_lines
from nightbid.jobs.vertex_meter import Pool, hourly_usd

MILLION, BILLION, GIB = 1e6, 1e9, 2**30
VCPUS, MEMORY_GB = 4, 15
"""Of an n1-standard-4: the worker of both services."""
BY_ROWS = ("sample", "featurize", "train", "train_baseline", "evaluate")
"""Stages whose work grows with the rows; the others read profiles, models and samples."""
BATCH = 65_536
"""Rows that the workers of a training share at each step."""
WIDTHS = {"train": 16, "train_baseline": 1}
"""Numbers that a model keeps per id."""


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


def learned_rows(traffic: Traffic, costs: Costs) -> float:
    """Rows of the training days after sampling: gradients are made of these alone."""
    kept = costs.label_rate + (1 - costs.label_rate) * traffic.negative_rate
    return traffic.per_day * traffic.train_days * kept


def rows_of(traffic: Traffic, costs: Costs) -> dict[str, float]:
    """Rows that each stage reads in one night: sampling thins out the training days alone."""
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


def shuffled_gb(traffic: Traffic, costs: Costs) -> float:
    """What goes between workers: row groups stay where they are, their statistics are merged.

    Each group of a million rows sends its distinct tokens (24 bytes) and keys of the past.
    """
    groups = math.ceil(rows_of(traffic, costs)["featurize"] / MILLION)
    distinct = min(MILLION, traffic.users_in_window)
    sent = distinct * (24 + costs.largest["featurize"]["history_bytes_per_key"])
    return groups * sent / GIB


@dataclass(frozen=True)
class Training:
    """A training on so many workers, each an n1-standard-4."""

    workers: int
    computing: float
    """Hours."""
    exchanging: float
    """Hours; every worker gathers the rows of all others' gradients, over 10 Gbit/s."""
    fits: bool
    """Whether a share of the rows fits in 70 % of a worker's memory."""

    @property
    def hours(self) -> float:
        """From the first step to the last."""
        return self.computing + self.exchanging

    @property
    def usd(self) -> Decimal:
        """Of all workers."""
        return hourly_usd([Pool("n1-standard-4", self.workers)]).amount * Decimal(str(self.hours))


def training(stage: str, workers: int, traffic: Traffic, costs: Costs) -> Training:
    """Compute one training of the night.

    Args:
        stage: `train` or `train_baseline`.
        workers: that share its batches.
        traffic: what is assumed of the logs.
        costs: what is measured.
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
