"""Counts values that features cannot read."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from nightbid.anonymous import UserColumn
from nightbid.config.features import Feature
from nightbid.features.values import RawColumns, naming
from nightbid.unreadable_values import Unreadable, unreadable


def unreadable_values(
    features: Mapping[str, Feature], rows: pa.Table, user: UserColumn
) -> dict[str, Unreadable]:
    """Count invalid values in the columns that features read as numbers or times.

    Args:
        features: Settings by feature name.
        rows: Rows with the raw columns.
        user: Column of the user.

    Returns:
        One count for each feature that reads numbers or times.
    """
    raw, counts = RawColumns(rows, user), dict[str, Unreadable]()
    for name, feature in features.items():
        reads = feature.reads
        if reads not in ("number", "time"):
            continue
        counts[name] = Unreadable()
        for column in feature.sources(name):
            with naming(name):
                counts[name] += unreadable(raw.column(column, name), reads)
    return counts
