"""The fitted state of a feature."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

WEIGHT_UNIT = 2.0**20
"""Weights are summed as integers in units of 2^-20: sums are exact, in any order."""


@dataclass(frozen=True)
class FittedState:
    """Fitted statistics that one feature needs besides its definition."""

    numbers: tuple[float, ...] = ()
    """Center and inverse scale, or ascending bucket boundaries; empty: none."""
    tokens: pa.Array | None = None
    """Vocabulary, string [entries], most frequent first; None: the feature has none."""
    history: pa.Table | None = None
    """Sorted by key: `history.SUMS` for rates and counts; key, time and token for items."""
