"""What every engine fits: DCN-v2 of one size on the rows in a folder, all numbers in NumPy.

The model, the same for all: vectors of `dim` per id, bags averaged, floats as they are, side by
side (x0); `crosses` layers x0 ⊙ (W·x + b) + x with full matrices, beside dense layers of `hidden`
units with ReLU; a logit on both. Adam at a constant rate, binary cross entropy, rows shuffled.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

THREADS = 2


@dataclass(frozen=True)
class Field:
    """One input that is looked up: `width` ids beside each other, 0 is padding in a bag."""

    name: str
    kind: str
    size: int
    first: int
    """Column of the ids."""
    width: int
    offset: int
    """Row of its id 0 in one table of all fields."""


@dataclass(frozen=True)
class Rows:
    """Rows of one split."""

    ids: np.ndarray
    """int32 [rows, columns]."""
    numbers: np.ndarray
    """float32 [rows, numbers]."""
    labels: np.ndarray
    """float32 [rows]."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Job:
    """What is asked."""

    folder: Path
    fields: tuple[Field, ...]
    table_rows: int
    dim: int
    crosses: int
    hidden: tuple[int, ...]
    batch: int
    epochs: int
    learning_rate: float

    def rows(self, split: str) -> Rows:
        return Rows(*(np.load(self.folder / f"{split}-{name}.npy")
                      for name in ("ids", "numbers", "labels")))  # fmt: skip


def read(folder: Path) -> Job:
    found = json.loads((folder / "job.json").read_text())
    fields = tuple(Field(**each) for each in found.pop("fields"))
    return Job(folder=folder, fields=fields, **{**found, "hidden": tuple(found["hidden"])})


def main(
    fit: Callable[[Job, Rows], tuple[Callable[[], Any], Callable[[Rows], np.ndarray]]],
) -> None:
    """Fit and report: `fit` builds and warms up, and gives back what trains and what scores."""
    job = read(Path(sys.argv[1]))
    train = job.rows("train")
    run, score = fit(job, train)
    clock, cpu = time.perf_counter(), time.process_time()
    more = run() or {}
    seconds, spent = time.perf_counter() - clock, time.process_time() - cpu
    # Some engines count more than the fit itself, and say how much.
    seconds -= more.pop("apart", 0.0)
    np.save(Path(sys.argv[2]), np.asarray(score(job.rows("newer")), np.float64).reshape(-1))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "cpu": spent, "peak_mib": peak, **more}))
