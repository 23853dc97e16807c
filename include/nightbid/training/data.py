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
"""Function from labels and weights, [rows] each, to the weights that training uses."""
AHEAD = 2
"""Batches that are prepared while an earlier one is learned."""


class SplitRows(Protocol):
    """Rows of a split, either in memory (`Examples`) or read from files in each pass (`Stream`)."""

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

    def weighed(self, weigh: Weigh) -> SplitRows:
        """Return the same rows with other weights."""

    def flags(self) -> Iterator[tuple[Floats32, Floats32]]:
        """Yield labels and weights in file order, [rows] each, piece by piece."""

    def known_shares(self) -> Floats32:
        """Return `Examples.seen` of all rows in file order, [rows]."""

    def pieces(self) -> Iterator[Examples]:
        """Yield the rows in file order, piece by piece."""

    def shuffled(self, size: int, *, seed: int, epoch: int, first: int = 0) -> Iterator[Examples]:
        """Yield the rows batch by batch, in an order that depends on seed and epoch alone.

        Args:
            size: Rows per batch; the last one may be smaller.
            seed: Seed of the order.
            epoch: Epoch number; each epoch has another order.
            first: Index of the first batch to yield, from 0.
        """


@dataclass(frozen=True)
class Examples:
    """Rows with their labels and weights, in memory."""

    inputs: Packed
    labels: Floats32
    """[rows], 0 or 1."""
    weights: Floats32
    """[rows], number of original rows that a row stands for after negative downsampling."""
    given: Floats32
    """[rows], 1 if the label's condition held, else 0; all 1 if only such rows are kept."""
    seen: Floats32
    """[rows], share of positives that are known at the row's age; 1 if labels are final."""

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def blank(cls, layout: Layout, rows: int) -> Examples:
        """Create rows of zeros to be filled; the label's condition holds in all of them."""
        return cls(
            layout.blank(rows),
            np.zeros(rows, np.float32),
            np.zeros(rows, np.float32),
            np.ones(rows, np.float32),
            np.ones(rows, np.float32),
        )

    @classmethod
    def joined(cls, parts: list[Examples]) -> Examples:
        """Concatenate parts."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            Packed.joined([part.inputs for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.weights for part in parts]),
            np.concatenate([part.given for part in parts]),
            np.concatenate([part.seen for part in parts]),
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
        """Yield labels and weights, [rows] each."""
        yield self.labels, self.weights

    def known_shares(self) -> Floats32:
        """Return `seen` of all rows, [rows]."""
        return self.seen

    def pieces(self) -> Iterator[Examples]:
        """Yield all rows at once."""
        yield self

    def take(self, rows: npt.NDArray[np.int64] | slice) -> Examples:
        """Select rows in the given order: a copy for an array of indices, a view for a slice."""
        return Examples(
            self.inputs.take(rows),
            some_rows(self.labels, rows),
            some_rows(self.weights, rows),
            some_rows(self.given, rows),
            some_rows(self.seen, rows),
        )

    def shuffled(self, size: int, *, seed: int, epoch: int, first: int = 0) -> Iterator[Examples]:
        """Yield copies of rows batch by batch, in an order that depends on seed and epoch alone.

        A thread prepares the next batches while the current one is learned: NumPy gathers rows
        without holding the GIL.

        Args:
            size: Rows per batch; the last one may be smaller.
            seed: Seed of the order.
            epoch: Epoch number; each epoch has another order.
            first: Index of the first batch to yield, from 0.
        """
        order = np.random.default_rng((seed, epoch)).permutation(len(self))
        with ThreadPoolExecutor(1) as thread:
            pending: deque[Future[Examples]] = deque()
            for start in range(first * size, len(self), size):
                pending.append(thread.submit(self.take, order[start : start + size]))
                if len(pending) > AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    def batches(self, size: int) -> Iterator[Examples]:
        """Yield views of the rows, batch by batch; the last batch may be smaller."""
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
        folder: Output folder of the featurize stage.
        split: train, validate or evaluate.
        layout: The model's inputs.
        serving: Whether to blank the training-only inputs, as they are at serving.
        days: Days to read; empty means all.
        also: Further splits, whose rows are appended.

    Raises:
        MissingDataError: There are no such rows, or an input is absent.
    """
    paths = [path for name in (split, *also) for path in split_files(folder, name, days)]
    files = {path: pq.read_metadata(path) for path in paths}
    ends = np.cumsum([footer.num_rows for footer in files.values()], dtype=np.int64)
    rows = int(ends[-1]) if len(ends) else 0
    if not rows:
        raise no_rows(split)
    # All cores read files, each into its place in the result: nothing is concatenated or copied.
    whole = Examples.blank(layout, rows)
    places = [
        whole.take(slice(int(end) - footer.num_rows, int(end)))
        for footer, end in zip(files.values(), ends, strict=True)
    ]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        list(threads.map(partial(_fill, layout, serving), places, files, files.values()))
    return whole


def every_so_many(rows: SplitRows, most: int) -> Examples:
    """Copy every n-th row in file order, with the smallest n that gives at most `most` rows."""
    step, start, parts = -(-len(rows) // most), 0, []
    for piece in rows.pieces():
        parts.append(piece.take(np.arange(-start % step, len(piece), step)))
        start += len(piece)
    return Examples.joined(parts)


def no_rows(split: str) -> MissingDataError:
    """Return the error for an empty split."""
    return MissingDataError(
        f"no {split} rows",
        where="featurize",
        hint="widen the window, or use a label condition that some rows meet",
    )


def _fill(
    layout: Layout, serving: bool, place: Examples, path: Path, footer: pq.FileMetaData
) -> None:
    with pq.ParquetFile(path, metadata=footer) as file:
        table = file.read(columns=[*layout.columns(), *reserved_in(file)])
    fill(place, table, layout, serving=serving)


def reserved_in(file: pq.ParquetFile) -> list[str]:
    """Return the names of the columns that training reads in addition to the inputs."""
    present = file.schema_arrow.names
    return [LABEL, WEIGHT, *(name for name in (GIVEN, SEEN) if name in present)]


def fill(place: Examples, table: pa.Table, layout: Layout, *, serving: bool) -> None:
    """Copy featurized rows into blank ones of the same number.

    Args:
        place: Blank rows to fill.
        table: Featurized rows with the columns of `reserved_in`.
        layout: The model's inputs.
        serving: Whether to leave the training-only inputs blank.
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
