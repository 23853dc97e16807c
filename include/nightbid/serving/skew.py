"""Check that features at serving equal those of training, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nightbid.config.pipeline import SPLITS
from nightbid.errors import CorruptDataError
from nightbid.features.fitted import FittedFeatures
from nightbid.models.layout import Layout, column_values
from nightbid.schema import KEY, split_files
from nightbid.serving.lookup import Lookup

REQUEST = 100
"""Rows looked up at once, as in a server: no feature may depend on neighboring rows."""


def paired_rows(
    sampled: Path, featurized: Path, layout: Layout, per_split: int
) -> tuple[pa.Table, pa.Table]:
    """Read the same rows raw and featurized: the first ones of every split's newest day.

    Args:
        sampled: Output folder of the sample stage.
        featurized: Output folder of the featurize stage.
        layout: Layout that names the inputs.
        per_split: Maximum number of rows per split.

    Raises:
        CorruptDataError: The rows differ.
    """
    raws, tables = [], []
    for split in SPLITS:
        files, raw_files = (_newest(split_files(folder, split)) for folder in (featurized, sampled))
        if not files or not raw_files:
            continue
        raw = _head(raw_files, None, per_split)
        table = _head(files, [KEY, *layout.columns()], per_split)
        rows = min(len(raw), len(table))
        raw, table = raw.slice(0, rows), table.slice(0, rows)
        if not raw[KEY].equals(table[KEY]):
            raise CorruptDataError(
                "sampled and featurized rows are not the same",
                where=f"split={split}/{files[-1].parent.name}",
                hint="rerun the night from `sample`; featurize must keep rows and their order",
            )
        raws.append(raw)
        tables.append(table)
    return (
        pa.concat_tables(raws, promote_options="permissive"),
        pa.concat_tables(tables, promote_options="permissive"),
    )


def mismatches(raw: pa.Table, featurized: pa.Table, fitted: FittedFeatures) -> dict[str, int]:
    """Count, per column, the cells that the serving lookup computes differently.

    Args:
        raw: Rows as logged.
        featurized: The same rows, as training reads them.
        fitted: Fitted features, as served.
    """
    lookup = Lookup(fitted)
    wrong: dict[str, int] = {}
    for start in range(0, len(raw), REQUEST):
        expected = featurized.slice(start, REQUEST)
        for name, values in lookup.inputs(raw.slice(start, REQUEST)).items():
            trained = column_values(expected[name], values.dtype.type)
            # Equal bits, so that NaN equals itself and 0.0 differs from -0.0.
            differ = values.ravel().view(np.int32) != trained.view(np.int32)
            wrong[name] = wrong.get(name, 0) + int(differ.sum())
    return wrong


def _newest(paths: list[Path]) -> list[Path]:
    """Return the files of the newest day: both stages split a day into files differently."""
    return [path for path in paths if path.parent == paths[-1].parent]


def _head(paths: list[Path], columns: list[str] | None, rows: int) -> pa.Table:
    parts: list[pa.Table] = []
    left = rows
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(min(rows, 65536), columns=columns):
            if left > 0:
                parts.append(pa.Table.from_batches([batch.slice(0, left)]))
                left -= parts[-1].num_rows
            if left <= 0:
                return pa.concat_tables(parts)
    return pa.concat_tables(parts) if parts else pq.ParquetFile(paths[0]).read(columns=columns)
