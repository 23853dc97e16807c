"""How many users can be evaluated in a given amount of memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from nightbid.evaluation.bootstrap import share_of_users
from nightbid.machine import GB
from nightbid.schema import USER

ROW_BYTES = 400
"""Bytes that scores and slices of a row take during the evaluation."""
USER_BYTES = 300
"""Bytes that a user takes during the bootstrap, besides a byte per replicate."""
COUNTED = 1_000_000
"""Number of rows whose users are counted, as a sample of all users."""


def share_that_fits(files: Sequence[Path], limit_gb: float, replicates: int) -> tuple[float, int]:
    """Compute the share of the users whose rows can be evaluated at once.

    A row without a user counts as a user, because intervals resample it alone. Users are counted
    only if it matters: not if the rows would fit even with a user each.

    Args:
        files: Featurized rows.
        limit_gb: Limit of memory in gigabytes.
        replicates: Number of bootstrap replicates.

    Returns:
        The share, at most 1, and the number of rows.
    """
    rows = sum(pq.read_metadata(path).num_rows for path in files)
    per_user = USER_BYTES + replicates
    users = rows
    if rows * (ROW_BYTES + per_user) > limit_gb * GB:
        users = _count_users(files, min(1.0, COUNTED / rows))
    return min(1.0, limit_gb * GB / max(rows * ROW_BYTES + users * per_user, 1)), rows


def _count_users(files: Sequence[Path], share: float) -> int:
    """Estimate the number of users from a share of them."""
    sample = []
    for path in files:
        for batch in pq.ParquetFile(path).iter_batches(columns=[USER]):
            users = batch.column(0).to_numpy()
            sample.append(users[share_of_users(users, share)])
    return round(len(np.unique(np.concatenate(sample))) / share)
