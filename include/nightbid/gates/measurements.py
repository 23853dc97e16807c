"""What a gate has measured, before any judgment."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """One figure."""

    family: str
    """The statistic's name: a field of the gate's block in the configuration."""
    subject: str
    """Column, input, slice or stage it was measured on; empty for the whole."""
    part: str
    """Which rows: a day, a split."""
    value: float
    note: str = ""
    """The raw counts behind it, for a person."""
    lasting: bool = False
    """Whether it may warn for any number of nights: nobody needs to do anything about it."""

    @property
    def statistic(self) -> str:
        """`family` or `family:subject`."""
        return f"{self.family}:{self.subject}" if self.subject else self.family


@dataclass
class Measurements:
    """All figures of one gate, and what could not be measured yet."""

    all: list[Measurement] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    """Further metrics for the manifest: no limit bounds them."""

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
        """Note a figure; None and NaN mean that it should be there and is not."""
        number = math.nan if value is None else float(value)
        self.all.append(Measurement(family, subject, part, number, note, lasting))

    def skip(self, why: str) -> None:
        """Say what is not judged tonight, and why; shown on the page."""
        self.skipped.append(why)
