"""The measurements of a gate, before any judgment."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """A measured value of a statistic."""

    family: str
    """Name of the statistic: a field of the gate's block in the configuration."""
    subject: str
    """Column, input, slice or stage that was measured; empty for the whole data."""
    part: str
    """Rows that were measured, such as a day or a split."""
    value: float
    note: str = ""
    """Raw counts behind the value, for readers."""
    lasting: bool = False
    """Whether a warning never expires, because there is nothing to do about it."""

    @property
    def statistic(self) -> str:
        """Name of the statistic: `family` or `family:subject`."""
        return f"{self.family}:{self.subject}" if self.subject else self.family


@dataclass
class Measurements:
    """All measurements of a gate, and what it could not measure."""

    all: list[Measurement] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    """Further metrics for the manifest, which no limit bounds."""

    def __iter__(self) -> Iterator[Measurement]:
        return iter(self.all)

    def add(
        self,
        family: str,
        value: float | None,
        *,
        subject: str = "",
        part: str = "",
        note: str = "",
        lasting: bool = False,
    ) -> None:
        """Add a measurement; a value of None or NaN means that it should exist but does not."""
        number = math.nan if value is None else float(value)
        self.all.append(Measurement(family, subject, part, number, note, lasting))

    def skip(self, why: str) -> None:
        """Add a text, for the page, that says what is not judged tonight and why."""
        self.skipped.append(why)
