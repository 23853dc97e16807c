"""What a feature has learned."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

WEIGHT_UNIT = 2.0**20
"""Weights are added as integers of 2^-20: sums are then exact, in any order."""


@dataclass(frozen=True)
class FittedState:
    """What one feature needs besides its definition."""

    numbers: tuple[float, ...] = ()
    """Center and inverse scale, or ascending bucket boundaries."""
    tokens: pa.Array | None = None
    """string [entries], most frequent first."""
    history: pa.Table | None = None
    """Sorted by key: of rates and counts `history.SUMS`, of recent items key, time and token."""
