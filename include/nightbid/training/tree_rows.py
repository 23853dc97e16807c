"""Rows for LightGBM that do not fit in memory: read by row group, stored as bins of one byte."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nightbid.machine import GB
from nightbid.models.boosting import lightgbm
from nightbid.models.layout import Layout, Packed
from nightbid.models.trees import columns_of, tree_matrix
from nightbid.training.data import Examples, SplitRows
from nightbid.training.memory import MemoryPlan
from nightbid.training.stream import RowGroup, Stream

FORGET = 0.1
"""Share of training rows with their training-only inputs blanked, as they are at serving."""
BINNED_EXTRA = 40
"""Bytes of a row in addition to its bins: label, weight, gradients, scores, leaf indices."""
ROOM = 0.9
"""Share of the limit that sampled rows may fill: wide columns need more than a byte per bin."""


def fitting(
    train: SplitRows, validation: SplitRows, plan: MemoryPlan | None, bins: int
) -> tuple[SplitRows, SplitRows, float]:
    """Sample streamed rows so that their bins fit in memory.

    LightGBM keeps one or two bytes per row and column, however the rows are read. If that is too
    much, rows are selected by the hash of their key: the same ones every night.

    Args:
        train: Training rows.
        validation: Newer rows.
        plan: Memory plan with the limit; may be None for rows in memory.
        bins: Maximum number of bins of a column.

    Returns:
        Training rows, validation rows, and the share of the rows that is kept.
    """
    if not (isinstance(train, Stream) and isinstance(validation, Stream)):
        return train, validation, 1.0
    assert plan is not None
    layout = train.layout
    columns = sum(map(columns_of, layout.lookups)) + len(layout.numbers)
    size = columns * (1 if bins <= 255 else 2) + BINNED_EXTRA
    needed = (len(train) + len(validation)) * size / GB
    if needed <= plan.limit_gb:
        return train, validation, 1.0
    share = ROOM * plan.limit_gb / needed
    return train.thinned(share), validation.thinned(share), share


def dataset(rows: SplitRows, layout: Layout, *, seed: int | None) -> tuple[Any, dict[str, Any]]:
    """Prepare rows for LightGBM.

    Args:
        rows: Rows in memory, or streamed.
        layout: The model's inputs.
        seed: Seed that selects rows whose training-only inputs are blanked; None blanks none.

    Returns:
        The data argument of `lightgbm.Dataset`, and its arguments `label` and `weight`.
    """
    if isinstance(rows, Examples):
        inputs = rows.inputs if seed is None else _forget(layout, rows.inputs, seed, 0)
        return tree_matrix(layout, inputs), {"label": rows.labels, "weight": rows.weights}
    assert isinstance(rows, Stream)
    flags = [(labels.copy(), weights.copy()) for labels, weights in rows.flags()]
    labels, weights = (np.concatenate(parts) for parts in zip(*flags, strict=True))
    reader = _GroupReader(rows, seed)
    return [_Part(reader, group) for group in rows.groups], {"label": labels, "weight": weights}


class _GroupReader:
    """Reads row groups as matrices, and caches the last one."""

    def __init__(self, rows: Stream, seed: int | None) -> None:
        self._rows, self._seed = rows, seed
        self._last: tuple[RowGroup, npt.NDArray[np.float32]] | None = None

    def matrix(self, group: RowGroup) -> npt.NDArray[np.float32]:
        if self._last is None or self._last[0] is not group:
            self._last = None
            layout, inputs = self._rows.layout, self._rows.group(group).inputs
            if self._seed is not None:
                inputs = _forget(layout, inputs, self._seed, group.start)
            self._last = group, tree_matrix(layout, inputs)
        return self._last[1]


class _Part(lightgbm.Sequence):  # type: ignore[misc]
    """One row group as a sequence for LightGBM."""

    batch_size = 1 << 16

    def __init__(self, reader: _GroupReader, group: RowGroup) -> None:
        self._reader, self._group = reader, group

    def __len__(self) -> int:
        return self._group.rows

    def __getitem__(self, at: Any) -> npt.NDArray[Any]:
        values = self._reader.matrix(self._group)[at]
        # LightGBM samples single rows, and accepts those as float64 only.
        return np.asarray(values if isinstance(at, slice) else values.astype(np.float64))


def _forget(layout: Layout, inputs: Packed, seed: int, start: int) -> Packed:
    """Blank the training-only inputs of some rows, selected by seed and row index alone."""
    if not len(layout.training_only_places) + len(layout.training_only_numbers):
        return inputs
    draw = np.random.PCG64((seed, 0))
    draw.advance(start)
    forgotten = np.random.Generator(draw).random(len(inputs)) < FORGET
    ids, numbers = inputs.ids.copy(), inputs.numbers.copy()
    ids[np.ix_(forgotten, layout.training_only_places)] = 0
    numbers[np.ix_(forgotten, layout.training_only_numbers)] = 0
    return replace(inputs, ids=ids, numbers=numbers)
