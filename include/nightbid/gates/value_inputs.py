"""Leaks with value labels: how well one input alone ranks the amounts.

Where most amounts are above 0 (watch time), predicting that is no leak. So the probability that the
larger of two amounts ranks higher, (1 + normalized Gini) / 2, replaces the AUC.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nightbid.column_parsing import whole
from nightbid.counts import counted
from nightbid.evaluation.value_metrics import normalized_gini
from nightbid.gates.drift import beyond_chance
from nightbid.gates.measurements import Measurements
from nightbid.models.layout import Layout
from nightbid.profile.bins import Floats, Ints
from nightbid.schema import LABEL, ModelInput, split_files

ROWS = 50_000
"""Maximum number of rows to read of each split, from its newest day."""
LEAST_ROWS = 500
GROUPS = 200
"""Number of bins for numbers, with equal numbers of training rows."""
SHRINKAGE = 20
"""Number of rows with the mean value to add to each bin, so that rare bins rank in the middle."""
PARTS = 10
"""Number of disjoint parts of the rows from which the standard error is estimated."""


@dataclass(frozen=True)
class _InputValues:
    """Values of one input in the rows of a split."""

    bins: Ints
    """[values] bin of each value; a list has a value per item."""
    row: Ints
    """[values] index of the row that the value belongs to."""
    amounts: Floats
    """[rows] label of each row."""


def measure_ranking(
    measurements: Measurements, featurized: Path, layout: Layout, inputs: tuple[ModelInput, ...]
) -> None:
    """Measure `single_concordance` and `single_auc_gap` of all inputs, for value labels.

    Args:
        measurements: Measurements to add to.
        featurized: Output folder of the featurize stage; the newest day of each split is read.
        layout: Layout of the featurized rows.
        inputs: Inputs of the model.
    """
    train, newest = (_read(featurized, split, layout) for split in ("train", "evaluate"))
    if min(len(train), len(newest)) < LEAST_ROWS:
        measurements.skip(
            "how well single inputs rank the values:"
            f" {counted(min(len(train), len(newest)), 'row')}, fewer than {LEAST_ROWS}"
        )
        return
    if not (_amounts(train).any() and _amounts(newest).any()):
        measurements.skip("how well single inputs rank the values: none is above 0")
        return
    for model_input in inputs:
        if model_input.name not in train.column_names:
            continue
        old, new = _binned(model_input.name, train, newest)
        ahead, error = _concordance(old, new)
        measurements.add(
            "single_concordance",
            beyond_chance(ahead, 0.5, error),
            subject=model_input.name,
            part="evaluate",
            note=f"alone it ranks {ahead:.3f} of the pairs of values, on"
            f" {counted(len(newest), 'row')}",
        )
        back, _ = _concordance(new, old)
        measurements.add(
            "single_auc_gap",
            max(beyond_chance(back - ahead, 0.0, 1.4 * error), 0.0),
            subject=model_input.name,
            part="train vs evaluate",
            note=f"alone {back:.3f} in training, {ahead:.3f} in the newest rows",
        )


def _read(folder: Path, split: str, layout: Layout) -> pa.Table:
    files = split_files(folder, split)
    if not files:
        return pa.table({LABEL: pa.array([], pa.float32())})
    # One file of the newest day is enough; a gate fetches only that one from a bucket.
    newest = [path for path in files if path.parent == files[-1].parent]
    present = pq.read_schema(newest[0]).names
    columns = [LABEL, *(name for name in layout.columns() if name in present)]
    return pq.read_table(newest[0], columns=columns, partitioning=None).slice(0, ROWS)


def _amounts(table: pa.Table) -> Floats:
    return np.nan_to_num(np.asarray(table[LABEL].cast(pa.float64()), np.float64))


def _binned(name: str, old: pa.Table, new: pa.Table) -> tuple[_InputValues, _InputValues]:
    """Bin the old and new rows in the same way: ids unchanged, numbers by the old quantiles."""
    flat = [_flat(table[name]) for table in (old, new)]
    values = [column[0] for column in flat]
    if np.issubdtype(values[0].dtype, np.floating):
        known = values[0][np.isfinite(values[0])]
        edges: Floats = np.zeros(0)
        if len(known):
            edges = np.unique(np.quantile(known, np.linspace(0, 1, GROUPS + 1)))
        # Missing numbers have a bin of their own.
        bins = [
            np.where(
                np.isnan(numbers), len(edges) + 1, np.searchsorted(edges, numbers, side="right")
            )
            for numbers in values
        ]
    else:
        both = np.unique(np.concatenate(values), return_inverse=True)[1]
        bins = [both[: len(values[0])], both[len(values[0]) :]]
    first, second = (
        _InputValues(table_bins.astype(np.int64), row, _amounts(table))
        for table_bins, (_, row), table in zip(bins, flat, (old, new), strict=True)
    )
    return first, second


def _flat(column: pa.ChunkedArray) -> tuple[np.ndarray, Ints]:
    """Get the values and the row index of each; a row with a list has several values or none."""
    array = whole(column)
    row = np.arange(len(array))
    if pa.types.is_nested(array.type):
        row = np.repeat(row, np.asarray(pc.list_value_length(array).fill_null(0)))
        array = array.flatten()
    values = np.asarray(array.to_numpy(zero_copy_only=False))
    if len(row) != len(column):
        some = values != 0  # padding
        values, row = values[some], row[some]
    return values, row.astype(np.int64)


def _concordance(learned: _InputValues, judged: _InputValues) -> tuple[float, float]:
    """Rank rows by the mean amounts of other rows; return the concordance and its error."""
    size = int(max(learned.bins.max(initial=0), judged.bins.max(initial=0))) + 1
    mean = float(learned.amounts.mean())
    total = np.bincount(learned.bins, learned.amounts[learned.row], size)
    count = np.bincount(learned.bins, minlength=size)
    level = (total + SHRINKAGE * mean) / (count + SHRINKAGE)
    rows = len(judged.amounts)
    items = np.bincount(judged.row, minlength=rows)
    score = np.bincount(judged.row, level[judged.bins], rows) / np.maximum(items, 1)
    score = np.where(items > 0, score, mean)

    def figure(part: slice) -> float:
        return (1 + normalized_gini(score[part], judged.amounts[part])) / 2

    parts = [figure(slice(at, None, PARTS)) for at in range(PARTS)]
    known = [estimate for estimate in parts if np.isfinite(estimate)]
    error = float(np.std(known, ddof=1) / np.sqrt(len(known))) if len(known) > 2 else 0.5
    value = figure(slice(None))
    return (value, error) if np.isfinite(value) else (0.5, 0.5)
