"""A stable sample of whole rows, for row expectations and examples.

It keeps the bottom k by a hash of the key, like the other samples of a profile: the selection
depends only on the rows, not on how a day is split into batches. Rows with the same key stay
together. A day with no more rows than the limit is kept whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nightbid.profile.sample import Hashes, hash_numbers
from nightbid.schema import KEY

LIMIT = 10_000


@dataclass(frozen=True)
class RowSample:
    """Rows with the smallest key hashes, in the order of the log."""

    table: pa.Table | None = None

    def add(self, rows: pa.Table, limit: int = LIMIT) -> RowSample:
        """Return the sample that includes further rows.

        Args:
            rows: Parsed rows with the reserved key column.
            limit: Number of rows to keep; exceeded only if keys repeat.
        """
        parts = [rows] if self.table is None else [self.table, rows]
        table = pa.concat_tables(parts, promote_options="permissive")
        if len(table) <= limit:
            return RowSample(table)
        hashes = _hashes(table)
        bound = np.partition(hashes, limit - 1)[limit - 1]
        return RowSample(table.filter(pa.array(hashes <= bound)))

    def save(self, path: Path) -> None:
        """Write Parquet; writes nothing if there are no rows."""
        if self.table is not None and len(self.table):
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(self.table, path, compression="zstd")


def _hashes(table: pa.Table) -> Hashes:
    return hash_numbers(np.asarray(table[KEY].combine_chunks()))
