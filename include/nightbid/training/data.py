"""Featurized rows as matrices in memory: no parsing per example."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nightbid.errors import MissingDataError
from nightbid.models.layout import Layout, Packed, some_rows
from nightbid.schema import GIVEN, LABEL, SEEN, WEIGHT, split_files

Floats32 = npt.NDArray[np.float32]
Weigh = Callable[[Floats32, Floats32], Floats32]
"""Labels and weights, [rows] each, to the weights that are learned with."""
AHEAD = 2
"""Batches that are made while an earlier one is learned."""


class Rows(Protocol):
    """Rows of a split: in memory (`Examples`), or read again for each pass (`Stream`)."""

    def __len__(self) -> int:
        """Number of rows."""

    @property
    def weight(self) -> float:
        """Sum of the weights."""

    @property
    def rate(self) -> float:
        """Weighted label rate."""

    @property
    def given_rate(self) -> float:
        """Weighted share of rows where the label's condition held."""

    def weighed(self, weigh: Weigh) -> Rows:
        """Return the same rows with other weights."""

    def flags(self) -> Iterator[tuple[Floats32, Floats32]]:
        """Read labels and weights in file order, [rows] each, piece by piece."""

    def known_shares(self) -> Floats32:
        """Read `seen` of all rows in file order, [rows]."""

    def pieces(self) -> Iterator[Examples]:
        """Read the rows in file order, piece by piece."""

    def shuffled(self, size: int, *, seed: int, epoch: int, first: int = 0) -> Iterator[Examples]:
        """Read the rows batch by batch, in an order that depends on seed and epoch alone.

        Args:
            size: Rows of a batch; the last one may be smaller.
            seed: Of the order.
            epoch: Each has another order.
            first: Batch to begin with, from 0.
        """


@dataclass(frozen=True)
class Examples:
    """Rows with their labels and weights, in memory."""

    inputs: Packed
    labels: Floats32
    """[rows], 0 or 1."""
    weights: Floats32
    """[rows], what a row stands for after negative downsampling."""
    given: Floats32
    """[rows], whether the label's condition held: 1 where only such rows are kept."""
    seen: Floats32
    """[rows], share of such rows' positives that are known: 1 where labels are final."""

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def blank(cls, layout: Layout, rows: int) -> Examples:
        """Make rows of zeros, to be filled; the label's condition holds in all."""
        return cls(
            layout.blank(rows),
            np.zeros(rows, np.float32),
            np.zeros(rows, np.float32),
            np.ones(rows, np.float32),
            np.ones(rows, np.float32),
        )

    @classmethod
    def joined(cls, parts: list[Examples]) -> Examples:
        """Copy parts one behind the other."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            Packed.joined([each.inputs for each in parts]),
            np.concatenate([each.labels for each in parts]),
            np.concatenate([each.weights for each in parts]),
            np.concatenate([each.given for each in parts]),
            np.concatenate([each.seen for each in parts]),
        )

    @property
    def weight(self) -> float:
        """Sum of the weights."""
        return float(self.weights.sum(dtype=np.float64))

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

    def weighed(self, weigh: Weigh) -> Examples:
        """Return the same rows with other weights."""
        return replace(self, weights=weigh(self.labels, self.weights))

    def flags(self) -> Iterator[tuple[Floats32, Floats32]]:
        """Labels and weights, [rows] each."""
        yield self.labels, self.weights

    def known_shares(self) -> Floats32:
        """`seen` of all rows, [rows]."""
        return self.seen

    def pieces(self) -> Iterator[Examples]:
        """All rows at once."""
        yield self

    def take(self, rows: npt.NDArray[np.int64] | slice) -> Examples:
        """Copy some rows, in the order given (a slice: look at them)."""
        return Examples(
            self.inputs.take(rows),
            some_rows(self.labels, rows),
            some_rows(self.weights, rows),
            some_rows(self.given, rows),
            some_rows(self.seen, rows),
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


def read_examples(
    folder: Path,
    split: str,
    layout: Layout,
    *,
    serving: bool,
    days: Collection[date] = (),
    also: Collection[str] = (),
) -> Examples:
    """Read one split of a featurize output.

    Args:
        folder: the output.
        split: train, validate or evaluate.
        layout: the model's inputs.
        serving: blank the training-only inputs, as they are at serving.
        days: of these days alone; default: of all.
        also: splits whose rows come behind.

    Raises:
        MissingDataError: there are no such rows, or an input is absent.
    """
    paths = [path for each in (split, *also) for path in split_files(folder, each, days)]
    files = {path: pq.read_metadata(path) for path in paths}
    ends = np.cumsum([footer.num_rows for footer in files.values()], dtype=np.int64)
    rows = int(ends[-1]) if len(ends) else 0
    if not rows:
        raise no_rows(split)
    # Files are read by all cores, each into its place: nothing is joined, or copied, afterwards.
    whole = Examples.blank(layout, rows)
    places = [
        whole.take(slice(int(end) - footer.num_rows, int(end)))
        for footer, end in zip(files.values(), ends, strict=True)
    ]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        list(threads.map(partial(_fill, layout, serving), places, files, files.values()))
    return whole


def every_so_many(rows: Rows, most: int) -> Examples:
    """Copy every n-th row in file order, so that there are at most so many."""
    step, start, parts = -(-len(rows) // most), 0, []
    for piece in rows.pieces():
        parts.append(piece.take(np.arange(-start % step, len(piece), step)))
        start += len(piece)
    return Examples.joined(parts)


def no_rows(split: str) -> MissingDataError:
    """Say that a split is empty."""
    return MissingDataError(
        f"no {split} rows",
        where="featurize",
        hint="widen the window, or take a label condition that some rows meet",
    )


def _fill(
    layout: Layout, serving: bool, place: Examples, path: Path, footer: pq.FileMetaData
) -> None:
    with pq.ParquetFile(path, metadata=footer) as file:
        table = file.read(columns=[*layout.columns(), *reserved_in(file)])
    fill(place, table, layout, serving=serving)


def reserved_in(file: pq.ParquetFile) -> list[str]:
    """Name the columns that training reads beside the inputs."""
    there = file.schema_arrow.names
    return [LABEL, WEIGHT, *(name for name in (GIVEN, SEEN) if name in there)]


def fill(place: Examples, table: pa.Table, layout: Layout, *, serving: bool) -> None:
    """Copy featurized rows into blank ones, as many.

    Args:
        place: Where they go.
        table: Featurized rows with the columns of `reserved_in`.
        layout: The model's inputs.
        serving: Leave the training-only inputs blank.
    """
    layout.fill(place.inputs, table, serving=serving)
    for name, target in (
        (LABEL, place.labels),
        (WEIGHT, place.weights),
        (GIVEN, place.given),
        (SEEN, place.seen),
    ):
        if name in table.column_names:
            target[:] = table[name].to_numpy()
