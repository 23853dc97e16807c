"""The job of every engine: fit a DCN-v2 of one size on the rows in a folder, in NumPy files.

All engines fit the same model. Its input x0 concatenates a vector of `dim` numbers per id, the
average of each bag, and the floats. `crosses` layers x0 ⊙ (W·x + b) + x with full matrices run in
parallel with dense layers of `hidden` ReLU units; both feed one logit. Training uses Adam at a
constant rate, binary cross entropy and shuffled rows.
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
    """One lookup input: `width` adjacent id columns; 0 is padding in a bag."""

    name: str
    kind: str
    size: int
    first: int
    """First column of the ids."""
    width: int
    offset: int
    """Row of its id 0 in the table that all fields share."""


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
    """The model, the training settings and the folder of the rows."""

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
    content = json.loads((folder / "job.json").read_text())
    fields = tuple(Field(**field) for field in content.pop("fields"))
    return Job(folder=folder, fields=fields, **{**content, "hidden": tuple(content["hidden"])})


def main(
    fit: Callable[[Job, Rows], tuple[Callable[[], Any], Callable[[Rows], np.ndarray]]],
) -> None:
    """Fit and report: `fit` builds and warms up, then returns a train and a score function."""
    job = read(Path(sys.argv[1]))
    train = job.rows("train")
    run, score = fit(job, train)
    clock, cpu = time.perf_counter(), time.process_time()
    more = run() or {}
    seconds, spent = time.perf_counter() - clock, time.process_time() - cpu
    # Some engines measure more than the fit itself and report the extra seconds.
    seconds -= more.pop("apart", 0.0)
    np.save(Path(sys.argv[2]), np.asarray(score(job.rows("newer")), np.float64).reshape(-1))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "cpu": spent, "peak_mib": peak, **more}))
