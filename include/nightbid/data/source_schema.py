"""Meaning of a source's columns: outcomes, and a simulator's ground truth."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class SourceSchema:
    """Meaning of a source's columns beyond their names."""

    outcomes: frozenset[str] = frozenset()
    """Columns known only after the impression was bought, hence never features."""
    truth: dict[str, str] = field(default_factory=dict)
    """Label column → column with the true probability of that label (simulators)."""
