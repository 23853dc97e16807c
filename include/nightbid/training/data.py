"""Featurized rows in memory, as matrices: no parsing per example."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from nightbid.errors import MissingDataError
from nightbid.models.layout import Layout, Packed
from nightbid.schema import LABEL, WEIGHT, split_files

Floats32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Examples:
    """Rows with their labels and weights."""

    inputs: Packed
    labels: Floats32
    """[rows], 0 or 1."""
    weights: Floats32
    """[rows], what a row stands for after negative downsampling."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def rate(self) -> float:
        """Weighted label rate."""
        weights = self.weights.astype(np.float64)
        return float(weights @ self.labels / weights.sum()) if len(self) else 0.0

    def take(self, rows: npt.NDArray[np.int64] | slice) -> Examples:
        """Copy some rows, in the order given (a slice: look at them)."""
        return Examples(self.inputs.take(rows), self.labels[rows], self.weights[rows])

    def shuffled(self, seed: int, epoch: int) -> Examples:
        """Copy all rows in the order of one epoch."""
        draw = np.random.default_rng((seed, epoch))
        return self.take(draw.permutation(len(self)))

    def batches(self, size: int) -> Iterator[Examples]:
        """Look at rows batch by batch; the last one may be smaller."""
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))


def read_examples(folder: Path, split: str, layout: Layout, *, serving: bool) -> Examples:
    """Read one split of a featurize output.

    Args:
        folder: the output.
        split: train, validate or evaluate.
        layout: the model's inputs.
        serving: blank the training-only inputs, as they are at serving.

    Raises:
        MissingDataError: there are no such rows, or an input is absent.
    """
    parts: list[Examples] = []
    for path in split_files(folder, split):
        table = pq.read_table(path, partitioning=None, columns=[*layout.columns(), LABEL, WEIGHT])
        labels, weights = (
            table[name].to_numpy().astype(np.float32, copy=False) for name in (LABEL, WEIGHT)
        )
        parts.append(Examples(layout.pack(table, serving=serving), labels, weights))
    if not sum(map(len, parts)):
        raise MissingDataError(
            f"no {split} rows",
            where="featurize",
            hint="widen the window, or take a label condition that some rows meet",
        )
    inputs = [each.inputs for each in parts]
    return Examples(
        Packed(
            np.concatenate([each.ids for each in inputs]),
            np.concatenate([each.numbers for each in inputs]),
            np.concatenate([each.bag_weights for each in inputs]),
        ),
        np.concatenate([each.labels for each in parts]),
        np.concatenate([each.weights for each in parts]),
    )
