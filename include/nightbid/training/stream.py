"""Featurized rows that do not fit in memory: row groups, read again for each pass.

An epoch reads the row groups, or parts of them, in an order drawn from the seed and the epoch. On
this line of rows every worker has a stretch of its own, cut into buffers of equal size; the rows of
a buffer are shuffled in memory, and the next buffer is read meanwhile. Which rows are in a batch
follows from seed, epoch and the size of the buffer alone, so that a training resumes in the middle
of an epoch by reading the one or two buffers that its next batch is in.
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
"""Rows that are shuffled together, if memory has room for them."""
MIXED, MOST_STRIPES = 8, 16
"""Row groups that a buffer has rows of, at least; parts that one is cut into for that, at most."""
READERS = 2
"""Row groups that are decoded at a time."""
BUFFER_SHARE = 0.25
"""Of the limit, at most, for one buffer: two are in memory, and what is being decoded."""
MIX = np.uint64(0x9E3779B97F4A7C15)
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RowGroup:
    """A row group of a file of featurized rows."""

    path: Path
    group: int
    start: int
    """Number of its first row in the split."""
    rows: int
    """That are kept."""


@dataclass(frozen=True)
class Stream:
    """Rows of a split, read from their files for each pass."""

    groups: tuple[RowGroup, ...]
    """In file order."""
    layout: Layout
    serving: bool
    """Whether training-only inputs are blank."""
    buffer: int
    """Rows that are shuffled together."""
    weigh: Weigh | None = None
    worker: int = 0
    workers: int = 1
    """Each reads its own share of an epoch's rows."""
    share: float = 1.0
    """Of the rows that are kept, by the hash of their key."""

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
        """Find the rows of a split.

        Args:
            folder: A featurize output.
            split: train or validate.
            layout: The model's inputs.
            plan: Gives the size of the buffer.
            serving: Blank the training-only inputs, as they are at serving.
            days: Of these days alone; default: of all.
            also: Splits whose rows come behind.

        Raises:
            MissingDataError: There are no such rows.
        """
        groups, start = [], 0
        paths = [path for each in (split, *also) for path in split_files(folder, each, days)]
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
        return sum(each.rows for each in self.groups)

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
        """Sum of weights, of those of positives, of those where the condition held."""
        found = np.zeros(3)
        for each in self._columns():
            weights = each.weights.astype(np.float64)
            found += (weights.sum(), weights @ each.labels, weights @ each.given)
        return float(found[0]), float(found[1]), float(found[2])

    def weighed(self, weigh: Weigh) -> Stream:
        """Return the same rows with other weights."""
        return replace(self, weigh=weigh)

    def thinned(self, share: float) -> Stream:
        """Keep a share of the rows: the same ones each time, chosen by the hash of their key."""
        thinner = replace(self, share=share)
        groups = [replace(each, rows=len(thinner._table(each, [KEY]))) for each in self.groups]
        return replace(thinner, groups=tuple(each for each in groups if each.rows))

    def flags(self) -> Iterator[tuple[Floats32, Floats32]]:
        """Read labels and weights in file order, [rows] each, by row group."""
        for each in self._columns():
            yield each.labels, each.weights

    def known_shares(self) -> Floats32:
        """Read `seen` of all rows in file order, [rows]."""
        return np.concatenate([each.seen.copy() for each in self._columns()])

    def pieces(self) -> Iterator[Examples]:
        """Read the rows in file order, by row group; the next one is read meanwhile."""
        with ThreadPoolExecutor(1) as reader:
            read: deque[Future[Examples]] = deque()
            for each in self.groups:
                read.append(reader.submit(self.group, each))
                if len(read) > 1:
                    yield read.popleft().result()
            while read:
                yield read.popleft().result()

    def group(self, group: RowGroup) -> Examples:
        """Read one row group."""
        return self._read([(group, 0, group.rows)])

    def shuffled(self, size: int, *, seed: int, epoch: int, first: int = 0) -> Iterator[Examples]:
        """Read this worker's share of each batch, in an order of seed and epoch.

        Args:
            size: rows of a batch of all workers together; the last one may be smaller.
            seed: of the order.
            epoch: each has another order.
            first: batch to begin with, from 0.
        """
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as gatherer:
            made: deque[Future[Examples]] = deque()
            for parts in self._batches(reader, size, (seed, epoch), first):
                made.append(gatherer.submit(_gathered, parts))
                if len(made) > AHEAD:
                    yield made.popleft().result()
            while made:
                yield made.popleft().result()

    def _batches(
        self, reader: ThreadPoolExecutor, size: int, seed: tuple[int, int], first: int
    ) -> Iterator[list[tuple[Examples, Ints]]]:
        """Buffers and the rows of each, batch by batch."""
        rows, steps = len(self), -(-len(self) // size)

        # Of the first `at` rows of an epoch, worker w has every n-th, from its w-th on: its share
        # of each batch differs from the others' by one row at most.
        def part(of: int, worker: int) -> int:
            return (of + self.workers - 1 - worker) // self.workers

        mine = [part(min(at * size, rows), self.worker) for at in range(steps + 1)]
        before = sum(part(rows, each) for each in range(self.worker))
        count = -(-mine[-1] // self.buffer)
        cuts = [mine[-1] * at // max(count, 1) for at in range(count + 1)]
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

        begin = int(np.searchsorted(cuts, mine[first], side="right")) - 1 if count else 0
        at, coming = begin - 1, reader.submit(read, begin) if begin < count else None
        buffer: tuple[Examples, Ints] | None = None
        for step in range(first, steps):
            low, high, parts = mine[step], mine[step + 1], []
            while low < high:
                if buffer is None or low >= cuts[at + 1]:
                    assert coming is not None
                    buffer = None  # let go of it before the next one but one is read
                    buffer, at = coming.result(), at + 1
                    coming = reader.submit(read, at + 1) if at + 1 < count else None
                until = min(high, cuts[at + 1])
                parts.append((buffer[0], buffer[1][low - cuts[at] : until - cuts[at]]))
                low = until
            yield parts or [(Examples.blank(self.layout, 0), np.zeros(0, np.int64))]

    def _stripes(self) -> list[tuple[RowGroup, int, int]]:
        """Cut row groups, so that a buffer that is not much larger than one mixes several.

        A row group is decoded once per stripe: the price of little memory.
        """
        rows = len(self) / len(self.groups)
        count = min(max(math.ceil(MIXED * rows / self.buffer), 1), MOST_STRIPES)
        return [
            (each, each.rows * at // count, each.rows * (at + 1) // count)
            for each in self.groups
            for at in range(count)
        ]

    def _read(self, stretches: list[tuple[RowGroup, int, int]]) -> Examples:
        """Read stretches of row groups, one behind the other; each group is decoded once."""
        whole = Examples.blank(self.layout, sum(high - low for _, low, high in stretches))
        wanted: dict[RowGroup, list[tuple[Examples, int]]] = {}
        start = 0
        for group, low, high in stretches:
            place = whole.take(slice(start, start + high - low))
            wanted.setdefault(group, []).append((place, low))
            start += high - low

        def one(group: RowGroup) -> None:
            table = self._table(group, self.layout.columns())
            for place, low in wanted[group]:
                fill(place, table.slice(low, len(place)), self.layout, serving=self.serving)

        with ThreadPoolExecutor(READERS) as threads:
            list(threads.map(one, wanted))
        return whole if self.weigh is None else whole.weighed(self.weigh)

    def _columns(self) -> Iterator[Examples]:
        """Labels, weights and conditions in file order, without inputs, by row group."""
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
    return Examples.joined([each.take(rows) for each, rows in parts])
