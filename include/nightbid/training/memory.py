"""Decide from the files' footers whether the rows of a training fit in memory."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from nightbid.counts import are, counted
from nightbid.machine import GB, memory_limit
from nightbid.models.layout import Layout
from nightbid.schema import split_files
from nightbid.training.distributed import place_of_environment

FLAGS = 16
"""Bytes of a row's label, weight, condition and known share."""
COPIES = 2
"""Factor for the size of rows: decoded and assembled copies are in memory next to them."""


@dataclass(frozen=True)
class MemoryPlan:
    """How the rows of a training are held in memory."""

    rows: int
    """Number of training and validation rows."""
    row_bytes: int
    """Size of one decoded row, in bytes."""
    estimated_gb: float
    """Estimated size of all rows in memory, in GB."""
    limit_gb: float
    """Maximum size in memory, in GB: `train.memory_gb`, or this process's share of the machine."""
    streams: bool
    """Whether rows are read again in each epoch because they exceed the limit."""

    @property
    def metrics(self) -> dict[str, Any]:
        """Values for the stage's manifest."""
        values = asdict(self)
        rounded = {name: float(f"{values[name]:.3g}") for name in ("estimated_gb", "limit_gb")}
        return {**values, **rounded}

    def __str__(self) -> str:
        way = counted(self.rows, "row streams", "rows stream")
        if not self.streams:
            way = f"{counted(self.rows, 'row')} {are(self.rows)} in memory"
        return (
            f"{way}: {self.estimated_gb:.3g} GB estimated,"
            f" train.memory_gb allows {self.limit_gb:.3g}"
        )


def plan_memory(
    folder: Path,
    layout: Layout,
    limit_gb: float | None,
    days: Collection[date] = (),
    also: Collection[str] = (),
) -> MemoryPlan:
    """Estimate the memory that the rows of a training take, and decide how they are read.

    Args:
        folder: Output folder of the featurize stage.
        layout: The model's inputs.
        limit_gb: `train.memory_gb`; None means this process's share of the machine.
        days: Training days to learn; empty means all.
        also: Further splits to learn.
    """
    files = [*split_files(folder, "train", days), *split_files(folder, "validate")]
    files += [path for split in also for path in split_files(folder, split)]
    rows = sum(pq.read_metadata(path).num_rows for path in files)
    size = layout.row_bytes + FLAGS
    limit_gb = memory_limit(limit_gb, place_of_environment().processes_here)
    estimated = COPIES * rows * size / GB
    return MemoryPlan(rows, size, estimated, limit_gb, estimated > limit_gb)
