"""What is known of a source's columns: which are outcomes, which hold a simulator's truth."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class SourceSchema:
    """What is known of a source's columns beyond their names."""

    outcomes: frozenset[str] = frozenset()
    """Known only after the impression was bought: never features."""
    truth: dict[str, str] = field(default_factory=dict)
    """Label column → column with the true probability of that label (simulators)."""
