"""Are features at serving those of training, bit for bit."""

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
"""Rows looked up at a time, as a server gets them: no feature may depend on its neighbours."""


def paired_rows(
    sampled: Path, featurized: Path, layout: Layout, per_split: int
) -> tuple[pa.Table, pa.Table]:
    """Read the same rows raw and featurized: the first ones of every split's newest day.

    Args:
        sampled: output of the sample stage.
        featurized: output of the featurize stage.
        layout: names the inputs.
        per_split: rows of each split.

    Raises:
        CorruptDataError: the rows are not the same.
    """
    raws, tables = [], []
    for split in SPLITS:
        files, raw_files = split_files(featurized, split), split_files(sampled, split)
        if not files or not raw_files:
            continue
        raw = _head(raw_files[-1], None, per_split)
        table = _head(files[-1], [KEY, *layout.columns()], per_split)
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
        raw: rows as they were logged.
        featurized: the same rows, as training read them.
        fitted: the features, as serving has them.
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


def _head(path: Path, columns: list[str] | None, rows: int) -> pa.Table:
    file = pq.ParquetFile(path)
    batches = []
    left = rows
    for batch in file.iter_batches(batch_size=min(rows, 65536), columns=columns):
        batches.append(batch.slice(0, left))
        left -= batches[-1].num_rows
        if left <= 0:
            break
    return pa.Table.from_batches(batches, file.schema_arrow if not columns else None)
