"""Featurized rows in memory, as matrices: no parsing per example."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from nightbid.errors import MissingDataError
from nightbid.models.layout import Layout, Packed, some_rows
from nightbid.schema import GIVEN, LABEL, WEIGHT, split_files

Floats32 = npt.NDArray[np.float32]
AHEAD = 2
"""Batches that are made while an earlier one is learned."""


@dataclass(frozen=True)
class Examples:
    """Rows with their labels and weights."""

    inputs: Packed
    labels: Floats32
    """[rows], 0 or 1."""
    weights: Floats32
    """[rows], what a row stands for after negative downsampling."""
    given: Floats32
    """[rows], whether the label's condition held: 1 where only such rows are kept."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def rate(self) -> float:
        """Weighted label rate."""
        return self._share(self.labels)

    @property
    def given_rate(self) -> float:
        """Weighted share of rows where the label's condition held."""
        return self._share(self.given)

    def _share(self, flags: Floats32) -> float:
        weights = self.weights.astype(np.float64)
        return float(weights @ flags / weights.sum()) if len(self) else 0.0

    def take(self, rows: npt.NDArray[np.int64] | slice) -> Examples:
        """Copy some rows, in the order given (a slice: look at them)."""
        return Examples(
            self.inputs.take(rows),
            some_rows(self.labels, rows),
            some_rows(self.weights, rows),
            some_rows(self.given, rows),
        )

    def shuffled(self, size: int, *, seed: int, epoch: int, first: int = 0) -> Iterator[Examples]:
        """Copy rows batch by batch, in an order that depends on the seed and the epoch alone.

        A thread makes the next batches while the last one is learned: NumPy gathers rows without
        holding the interpreter.

        Args:
            size: rows of a batch; the last one may be smaller.
            seed: of the order.
            epoch: each has another order.
            first: batch to begin with, from 0.
        """
        order = np.random.default_rng((seed, epoch)).permutation(len(self))
        with ThreadPoolExecutor(1) as thread:
            made: deque[Future[Examples]] = deque()
            for start in range(first * size, len(self), size):
                made.append(thread.submit(self.take, order[start : start + size]))
                if len(made) > AHEAD:
                    yield made.popleft().result()
            while made:
                yield made.popleft().result()

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
        reserved = [LABEL, WEIGHT]
        if GIVEN in pq.read_schema(path).names:
            reserved.append(GIVEN)
        table = pq.read_table(path, partitioning=None, columns=[*layout.columns(), *reserved])
        found = [table[name].to_numpy().astype(np.float32, copy=False) for name in reserved]
        given = found[2] if len(found) > 2 else np.ones(len(table), np.float32)
        parts.append(Examples(layout.pack(table, serving=serving), found[0], found[1], given))
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
        np.concatenate([each.given for each in parts]),
    )
