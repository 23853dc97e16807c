"""Coder for statistics that are passed between Beam steps.

Beam encodes the output of a step more often than it sends it, only to estimate its size. With token
counts of large vocabularies that took a third of the fitting time, so the size is a fixed guess.
"""

from __future__ import annotations

from apache_beam.coders import PickleCoder

GUESS = 1 << 20
"""Assumed size of an element in bytes; only affects Beam's progress."""


class StatisticsCoder(PickleCoder):  # type: ignore[misc]
    """Pickles immutable values."""

    def estimate_size(self, value: object) -> int:
        """Return a fixed guess, since the exact size would require pickling the value."""
        return GUESS
