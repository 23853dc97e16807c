"""Rows for LightGBM that do not fit in memory: read by row group, kept as bins of a byte each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import lightgbm
import numpy as np
import numpy.typing as npt

from nightbid.machine import GB
from nightbid.models.layout import Layout, Packed
from nightbid.models.trees import columns_of, tree_matrix
from nightbid.training.data import Examples, Rows
from nightbid.training.memory import MemoryPlan
from nightbid.training.stream import RowGroup, Stream

FORGET = 0.1
"""Share of training rows whose training-only inputs are blanked, as they are at serving."""
BINNED_EXTRA = 40
"""Bytes of a row beside its bins: label, weight, gradients, scores and places in the leaves."""
ROOM = 0.9
"""Of the limit, that a sample of rows fills: bins need more than one byte in wide columns."""


def fitting(
    train: Rows, validation: Rows, plan: MemoryPlan | None, bins: int
) -> tuple[Rows, Rows, float]:
    """Thin streamed rows out until their bins fit in memory.

    LightGBM keeps a byte or two per row and column, whatever way the rows come. Where that is too
    much, rows are chosen by the hash of their key: the same ones in every night.

    Args:
        train: Rows to learn from.
        validation: Newer rows.
        plan: With the limit.
        bins: Most bins of a column.

    Returns:
        Both, and the share of the rows that is left.
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


def dataset(rows: Rows, layout: Layout, *, seed: int | None) -> tuple[Any, dict[str, Any]]:
    """Prepare rows for LightGBM.

    Args:
        rows: In memory, or streamed.
        layout: The model's inputs.
        seed: Of the rows whose training-only inputs are blanked; None: of none.

    Returns:
        What `lightgbm.Dataset` takes as data, and its labels and weights.
    """
    if isinstance(rows, Examples):
        inputs = rows.inputs if seed is None else _forget(layout, rows.inputs, seed, 0)
        return tree_matrix(layout, inputs), {"label": rows.labels, "weight": rows.weights}
    assert isinstance(rows, Stream)
    flags = [(labels.copy(), weights.copy()) for labels, weights in rows.flags()]
    labels, weights = (np.concatenate(each) for each in zip(*flags, strict=True))
    reader = _Reader(rows, seed)
    return [_Part(reader, each) for each in rows.groups], {"label": labels, "weight": weights}


class _Reader:
    """Reads row groups as matrices, and keeps the last one."""

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
    """One row group."""

    batch_size = 1 << 16

    def __init__(self, reader: _Reader, group: RowGroup) -> None:
        self._reader, self._group = reader, group

    def __len__(self) -> int:
        return self._group.rows

    def __getitem__(self, at: Any) -> npt.NDArray[Any]:
        found = self._reader.matrix(self._group)[at]
        # LightGBM takes single rows, which it samples, as float64 only.
        return np.asarray(found if isinstance(at, slice) else found.astype(np.float64))


def _forget(layout: Layout, inputs: Packed, seed: int, start: int) -> Packed:
    """Blank the training-only inputs of some rows: by seed and number of the row alone."""
    if not len(layout.training_only_places) + len(layout.training_only_numbers):
        return inputs
    draw = np.random.PCG64((seed, 0))
    draw.advance(start)
    forgotten = np.random.Generator(draw).random(len(inputs)) < FORGET
    ids, numbers = inputs.ids.copy(), inputs.numbers.copy()
    ids[np.ix_(forgotten, layout.training_only_places)] = 0
    numbers[np.ix_(forgotten, layout.training_only_numbers)] = 0
    return replace(inputs, ids=ids, numbers=numbers)
