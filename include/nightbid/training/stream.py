"""Featurized rows that do not fit in memory: row groups that are read again in each pass.

An epoch visits the row groups, or parts of them, in an order drawn from the seed and the epoch. Of
this sequence of rows every worker has its own contiguous range, cut into buffers of equal size. The
rows of a buffer are shuffled in memory while the next buffer is read. Seed, epoch and buffer size
alone determine the rows of a batch, so a training resumes in the middle of an epoch by reading the
one or two buffers that contain its next batch.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nightbid.machine import GB
from nightbid.models.layout import Layout
from nightbid.schema import KEY, split_files
from nightbid.training.data import AHEAD, Examples, Floats32, Weigh, fill, no_rows, reserved_in
from nightbid.training.distributed import place_of_environment
from nightbid.training.memory import MemoryPlan

BUFFER_ROWS = 1 << 20
"""Maximum number of rows that are shuffled together; less if memory is short."""
MIXED, MOST_STRIPES = 8, 16
"""Minimum number of row groups per buffer; maximum number of parts a row group is cut into."""
READERS = 2
"""Number of row groups that are decoded concurrently."""
BUFFER_SHARE = 0.25
"""Maximum share of the memory limit per buffer: two are in memory, plus the decoded groups."""
MIX = np.uint64(0x9E3779B97F4A7C15)
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RowGroup:
    """A row group of a file of featurized rows."""

    path: Path
    group: int
    start: int
    """Index of its first row in the split."""
    rows: int
    """Number of rows that are kept."""


@dataclass(frozen=True)
class Stream:
    """Rows of a split, read from their files in each pass."""

    groups: tuple[RowGroup, ...]
    """Row groups in file order."""
    layout: Layout
    serving: bool
    """Whether training-only inputs are blanked."""
    buffer: int
    """Number of rows that are shuffled together."""
    weigh: Weigh | None = None
    worker: int = 0
    workers: int = 1
    """Number of workers; each reads its own share of an epoch's rows."""
    share: float = 1.0
    """Share of the rows that are kept, selected by the hash of their key."""

    @classmethod
    def of(
        cls,
        folder: Path,
        split: str,
        layout: Layout,
        plan: MemoryPlan,
        *,
        serving: bool,
        days: Collection[date] = (),
        also: Collection[str] = (),
    ) -> Stream:
        """Create a stream of the rows of a split.

        Args:
            folder: Output folder of the featurize stage.
            split: train or validate.
            layout: The model's inputs.
            plan: Memory plan; determines the size of the buffer.
            serving: Whether to blank the training-only inputs, as they are at serving.
            days: Days to read; empty means all.
            also: Further splits, whose rows are appended.

        Raises:
            MissingDataError: There are no such rows.
        """
        groups, start = [], 0
        paths = [path for name in (split, *also) for path in split_files(folder, name, days)]
        for path in paths:
            footer = pq.read_metadata(path)
            for number in range(footer.num_row_groups):
                rows = footer.row_group(number).num_rows
                if rows:
                    groups.append(RowGroup(path, number, start, rows))
                start += rows
        if not groups:
            raise no_rows(split)
        room = int(BUFFER_SHARE * plan.limit_gb * GB / plan.row_bytes)
        place = place_of_environment()
        return cls(
            tuple(groups),
            layout,
            serving,
            buffer=max(1, min(BUFFER_ROWS, room)),
            worker=place.number,
            workers=place.workers,
        )

    def __len__(self) -> int:
        return sum(group.rows for group in self.groups)

    @property
    def weight(self) -> float:
        """Sum of the weights."""
        return self._totals[0]

    @property
    def rate(self) -> float:
        """Weighted label rate."""
        return self._totals[1] / self._totals[0]

    @property
    def given_rate(self) -> float:
        """Weighted share of rows where the label's condition held."""
        return self._totals[2] / self._totals[0]

    @cached_property
    def _totals(self) -> tuple[float, float, float]:
        """Sums of the weights: of all rows, of positives, of rows where the condition held."""
        sums = np.zeros(3)
        for piece in self._columns():
            weights = piece.weights.astype(np.float64)
            sums += (weights.sum(), weights @ piece.labels, weights @ piece.given)
        return float(sums[0]), float(sums[1]), float(sums[2])

    def weighed(self, weigh: Weigh) -> Stream:
        """Return the same rows with other weights."""
        return replace(self, weigh=weigh)

    def thinned(self, share: float) -> Stream:
        """Keep a share of the rows, selected by the hash of their key: always the same ones."""
        thinner = replace(self, share=share)
        groups = [replace(group, rows=len(thinner._table(group, [KEY]))) for group in self.groups]
        return replace(thinner, groups=tuple(group for group in groups if group.rows))

    def flags(self) -> Iterator[tuple[Floats32, Floats32]]:
        """Yield labels and weights in file order, [rows] each, by row group."""
        for piece in self._columns():
            yield piece.labels, piece.weights

    def known_shares(self) -> Floats32:
        """Return `Examples.seen` of all rows in file order, [rows]."""
        return np.concatenate([piece.seen.copy() for piece in self._columns()])

    def pieces(self) -> Iterator[Examples]:
        """Yield the rows in file order, by row group; a thread reads the next one meanwhile."""
        with ThreadPoolExecutor(1) as reader:
            read: deque[Future[Examples]] = deque()
            for group in self.groups:
                read.append(reader.submit(self.group, group))
                if len(read) > 1:
                    yield read.popleft().result()
            while read:
                yield read.popleft().result()

    def group(self, group: RowGroup) -> Examples:
        """Read one row group."""
        return self._read([(group, 0, group.rows)])

    def shuffled(self, size: int, *, seed: int, epoch: int, first: int = 0) -> Iterator[Examples]:
        """Yield this worker's share of each batch, in an order that depends on seed and epoch.

        Args:
            size: Rows per batch of all workers together; the last batch may be smaller.
            seed: Seed of the order.
            epoch: Epoch number; each epoch has another order.
            first: Index of the first batch to yield, from 0.
        """
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as gatherer:
            pending: deque[Future[Examples]] = deque()
            for parts in self._batches(reader, size, (seed, epoch), first):
                pending.append(gatherer.submit(_gathered, parts))
                if len(pending) > AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    def _batches(
        self, reader: ThreadPoolExecutor, size: int, seed: tuple[int, int], first: int
    ) -> Iterator[list[tuple[Examples, Ints]]]:
        """Yield each batch as pairs of a buffer and the indices of its rows."""
        rows, steps = len(self), -(-len(self) // size)

        # Worker w takes every n-th of the first `at` rows of an epoch, from the w-th on, so the
        # workers' shares of a batch differ by at most one row.
        def part(of: int, worker: int) -> int:
            return (of + self.workers - 1 - worker) // self.workers

        bounds = [part(min(at * size, rows), self.worker) for at in range(steps + 1)]
        before = sum(part(rows, worker) for worker in range(self.worker))
        count = -(-bounds[-1] // self.buffer)
        cuts = [bounds[-1] * at // max(count, 1) for at in range(count + 1)]
        stripes = self._stripes()
        line = [stripes[at] for at in np.random.default_rng(seed).permutation(len(stripes))]
        ends = np.cumsum([stop - start for _, start, stop in line], dtype=np.int64)

        def read(at: int) -> tuple[Examples, Ints]:
            low, high = before + cuts[at], before + cuts[at + 1]
            stretches = []
            for place in range(int(np.searchsorted(ends, low, side="right")), len(line)):
                group, start, stop = line[place]
                begins = int(ends[place]) - (stop - start)
                if begins >= high:
                    break
                within = (start + max(low - begins, 0), min(start + high - begins, stop))
                stretches.append((group, *within))
            mixed = np.random.default_rng((*seed, 1 + self.worker, at)).permutation(high - low)
            return self._read(stretches), mixed

        begin = int(np.searchsorted(cuts, bounds[first], side="right")) - 1 if count else 0
        at, coming = begin - 1, reader.submit(read, begin) if begin < count else None
        buffer: tuple[Examples, Ints] | None = None
        for step in range(first, steps):
            low, high, parts = bounds[step], bounds[step + 1], []
            while low < high:
                if buffer is None or low >= cuts[at + 1]:
                    assert coming is not None
                    buffer = None  # free it before the buffer after the next one is read
                    buffer, at = coming.result(), at + 1
                    coming = reader.submit(read, at + 1) if at + 1 < count else None
                until = min(high, cuts[at + 1])
                parts.append((buffer[0], buffer[1][low - cuts[at] : until - cuts[at]]))
                low = until
            yield parts or [(Examples.blank(self.layout, 0), np.zeros(0, np.int64))]

    def _stripes(self) -> list[tuple[RowGroup, int, int]]:
        """Cut row groups into parts, so that even a small buffer mixes several row groups.

        A row group is decoded once per part: that is the price of little memory.
        """
        rows = len(self) / len(self.groups)
        count = min(max(math.ceil(MIXED * rows / self.buffer), 1), MOST_STRIPES)
        return [
            (group, group.rows * at // count, group.rows * (at + 1) // count)
            for group in self.groups
            for at in range(count)
        ]

    def _read(self, stretches: list[tuple[RowGroup, int, int]]) -> Examples:
        """Read and concatenate ranges of row groups; each group is decoded once."""
        whole = Examples.blank(self.layout, sum(high - low for _, low, high in stretches))
        reads: dict[RowGroup, list[tuple[Examples, int]]] = {}
        start = 0
        for group, low, high in stretches:
            place = whole.take(slice(start, start + high - low))
            reads.setdefault(group, []).append((place, low))
            start += high - low

        def one(group: RowGroup) -> None:
            table = self._table(group, self.layout.columns())
            for place, low in reads[group]:
                fill(place, table.slice(low, len(place)), self.layout, serving=self.serving)

        with ThreadPoolExecutor(READERS) as threads:
            list(threads.map(one, reads))
        return whole if self.weigh is None else whole.weighed(self.weigh)

    def _columns(self) -> Iterator[Examples]:
        """Yield labels, weights and conditions by row group, in file order and without inputs."""
        bare = Layout(self.layout.schema.model_copy(update={"inputs": ()}))
        yield from replace(self, layout=bare).pieces()

    def _table(self, group: RowGroup, columns: list[str]) -> pa.Table:
        with pq.ParquetFile(group.path) as file:
            thin = [KEY] if self.share < 1 and KEY not in columns else []
            table = file.read_row_group(group.group, columns=[*columns, *reserved_in(file), *thin])
        if self.share == 1:
            return table
        mixed = (table[KEY].to_numpy().view(np.uint64) * MIX) >> np.uint64(32)
        return table.filter(pa.array(mixed < np.uint64(self.share * 2.0**32)))


def _gathered(parts: list[tuple[Examples, Ints]]) -> Examples:
    return Examples.joined([examples.take(rows) for examples, rows in parts])
