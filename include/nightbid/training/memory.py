"""Whether a training's rows fit in memory: decided once, from the footers of their files."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from nightbid.machine import GB, memory_limit
from nightbid.models.layout import Layout
from nightbid.schema import split_files
from nightbid.training.distributed import place_of_environment

FLAGS = 16
"""Bytes of a row's label, weight, condition and share that is known."""
COPIES = 2
"""Rows are counted twice: what is decoded, and what is arranged, is in memory beside them."""


@dataclass(frozen=True)
class MemoryPlan:
    """How the rows of a training are held."""

    rows: int
    """Of training and validation."""
    row_bytes: int
    """Of one row, decoded."""
    estimated_gb: float
    """What all rows would take in memory."""
    limit_gb: float
    """What they may take: `train.memory_gb`, or this process's share of the machine."""
    streams: bool
    """Whether they are read again for each epoch, because they would take more."""

    @property
    def metrics(self) -> dict[str, Any]:
        """What the manifest says of it."""
        kept = asdict(self)
        rounded = {each: float(f"{kept[each]:.3g}") for each in ("estimated_gb", "limit_gb")}
        return {**kept, **rounded}

    def __str__(self) -> str:
        way = "stream" if self.streams else "are in memory"
        return (
            f"{self.rows:,} rows {way}: {self.estimated_gb:.3g} GB estimated,"
            f" train.memory_gb allows {self.limit_gb:.3g}"
        )


def plan_memory(
    folder: Path,
    layout: Layout,
    limit_gb: float | None,
    days: Collection[date] = (),
    also: Collection[str] = (),
) -> MemoryPlan:
    """Estimate what the rows of a training take, and decide how they are read.

    Args:
        folder: A featurize output.
        layout: The model's inputs.
        limit_gb: `train.memory_gb`.
        days: Training days that are learned; default: all.
        also: Further splits that are learned.
    """
    files = [*split_files(folder, "train", days), *split_files(folder, "validate")]
    files += [path for each in also for path in split_files(folder, each)]
    rows = sum(pq.read_metadata(path).num_rows for path in files)
    size = layout.row_bytes + FLAGS
    limit_gb = memory_limit(limit_gb, place_of_environment().processes_here)
    estimated = COPIES * rows * size / GB
    return MemoryPlan(rows, size, estimated, limit_gb, estimated > limit_gb)
