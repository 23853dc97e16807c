"""Columns of rows and of their features."""

from __future__ import annotations

import pyarrow as pa
from nightbid.features.fitted import FittedFeatures

DAY = 86_400_000_000


def column_values(fitted: FittedFeatures, rows: pa.Table, name: str) -> list:
    return fitted.transform(rows)[name].to_pylist()


def with_column(rows: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return rows.set_column(rows.column_names.index(name), name, values)
