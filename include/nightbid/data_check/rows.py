"""Reads the first rows of a day, as columns of plain types."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from nightbid.sampling.plain import plain_table
from nightbid.schema import REASON, TEXT

SAMPLE_ROWS = 100_000
"""Maximum number of rows to inspect per day."""


def first_rows(batches: Iterable[pa.RecordBatch]) -> tuple[pa.Table | None, Sequence[str]]:
    """Read the first rows of a day.

    Args:
        batches: Batches of a source.

    Returns:
        The readable rows, None if there are none; and a reason for each unreadable row.
    """
    tables, rows, reasons = [], 0, []
    for batch in batches:
        table = pa.Table.from_batches([batch])
        if REASON in table.column_names:
            wrong = ~np.asarray(table[REASON].is_null(), bool)
            reasons += table[REASON].filter(pa.array(wrong)).to_pylist()
            table = table.filter(pa.array(~wrong)).drop_columns(
                [name for name in (REASON, TEXT) if name in table.column_names]
            )
        tables.append(plain_table(table))
        rows += len(table)
        if rows >= SAMPLE_ROWS:
            break
    if not tables:
        return None, reasons
    return pa.concat_tables(tables).slice(0, SAMPLE_ROWS).combine_chunks(), reasons
