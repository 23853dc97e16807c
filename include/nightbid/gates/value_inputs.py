"""Value labels: how well one input alone ranks the amounts, to find inputs that have seen them.

That an amount is above 0 is no secret where most are (watch time): the chance that the larger of
two amounts has the higher rank, (1 + normalized Gini) / 2, takes the place of the AUC.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nightbid.column_parsing import whole
from nightbid.evaluation.value_metrics import normalized_gini
from nightbid.gates.drift import beyond_chance
from nightbid.gates.measurements import Measurements
from nightbid.models.layout import Layout
from nightbid.profile.bins import Floats, Ints
from nightbid.schema import LABEL, ModelInput, split_files

ROWS = 50_000
"""Of each split, from its newest day."""
LEAST_ROWS = 500
GROUPS = 200
"""Bins of numbers, of equally many training rows."""
SHRINKAGE = 20
"""Rows of the mean value that every bin gets: rare ones rank in the middle."""
PARTS = 10
"""Disjoint parts of the rows whose figures tell the standard error."""


@dataclass(frozen=True)
class _Rows:
    """One input of the rows of a split."""

    bins: Ints
    """[values] bin of each value; of a list, each of its items."""
    row: Ints
    """[values] whose value it is."""
    amounts: Floats
    """[rows]"""


def measure_ranking(
    measurements: Measurements, featurized: Path, layout: Layout, inputs: tuple[ModelInput, ...]
) -> None:
    """Measure `single_concordance` and `single_auc_gap` of every input of a model of values.

    Args:
        measurements: filled here.
        featurized: output of the featurize stage; its splits' newest days are read.
        layout: names the inputs.
        inputs: of the model.
    """
    train, newest = (_read(featurized, split, layout) for split in ("train", "evaluate"))
    if min(len(train), len(newest)) < LEAST_ROWS:
        measurements.skip(
            f"how well single inputs rank the values: {min(len(train), len(newest)):,} rows, fewer"
            f" than {LEAST_ROWS}"
        )
        return
    if not (_amounts(train).any() and _amounts(newest).any()):
        measurements.skip("how well single inputs rank the values: none is above 0")
        return
    for each in inputs:
        if each.name not in train.column_names:
            continue
        old, new = _binned(each.name, train, newest)
        ahead, error = _concordance(old, new)
        measurements.add(
            "single_concordance",
            beyond_chance(ahead, 0.5, error),
            subject=each.name,
            part="evaluate",
            note=f"alone it ranks {ahead:.3f} of the pairs of values, on {len(newest):,} rows",
        )
        back, _ = _concordance(new, old)
        measurements.add(
            "single_auc_gap",
            max(beyond_chance(back - ahead, 0.0, 1.4 * error), 0.0),
            subject=each.name,
            part="train vs evaluate",
            note=f"alone {back:.3f} in training, {ahead:.3f} in the newest rows",
        )


def _read(folder: Path, split: str, layout: Layout) -> pa.Table:
    files = split_files(folder, split)
    if not files:
        return pa.table({LABEL: pa.array([], pa.float32())})
    # One file of the newest day is enough, and all that a gate fetches from a bucket.
    newest = [path for path in files if path.parent == files[-1].parent]
    there = pq.read_schema(newest[0]).names
    columns = [LABEL, *(name for name in layout.columns() if name in there)]
    return pq.read_table(newest[0], columns=columns, partitioning=None).slice(0, ROWS)


def _amounts(table: pa.Table) -> Floats:
    return np.nan_to_num(np.asarray(table[LABEL].cast(pa.float64()), np.float64))


def _binned(name: str, old: pa.Table, new: pa.Table) -> tuple[_Rows, _Rows]:
    """Bin both alike: ids as they are, numbers by quantiles of the old rows."""
    flat = [_flat(table[name]) for table in (old, new)]
    values = [each[0] for each in flat]
    if np.issubdtype(values[0].dtype, np.floating):
        known = values[0][np.isfinite(values[0])]
        edges: Floats = np.zeros(0)
        if len(known):
            edges = np.unique(np.quantile(known, np.linspace(0, 1, GROUPS + 1)))
        # A missing number is a bin of its own.
        bins = [
            np.where(np.isnan(each), len(edges) + 1, np.searchsorted(edges, each, side="right"))
            for each in values
        ]
    else:
        both = np.unique(np.concatenate(values), return_inverse=True)[1]
        bins = [both[: len(values[0])], both[len(values[0]) :]]
    first, second = (
        _Rows(each.astype(np.int64), row, _amounts(table))
        for each, (_, row), table in zip(bins, flat, (old, new), strict=True)
    )
    return first, second


def _flat(column: pa.ChunkedArray) -> tuple[np.ndarray, Ints]:
    """Values, and the row of each; rows of lists have several or none."""
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


def _concordance(learned: _Rows, judged: _Rows) -> tuple[float, float]:
    """Rank rows by the mean amounts that others had, and say how well; with its standard error."""
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
    known = [each for each in parts if np.isfinite(each)]
    error = float(np.std(known, ddof=1) / np.sqrt(len(known))) if len(known) > 2 else 0.5
    value = figure(slice(None))
    return (value, error) if np.isfinite(value) else (0.5, 0.5)
