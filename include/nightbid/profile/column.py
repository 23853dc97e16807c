"""Statistics of one column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nightbid.errors import CorruptDataError
from nightbid.profile.bins import Bins, between_edges
from nightbid.profile.exact import ExactSum, deviation
from nightbid.profile.sample import CountedSample

ColumnKind = Literal["number", "text", "time", "id", "other", "empty"]


@dataclass(frozen=True)
class ColumnProfile:
    """Counts that merge exactly, and statistics derived from them."""

    kind: ColumnKind
    types: tuple[str, ...]
    """Arrow types seen, ignoring dictionary encoding."""
    rows: int
    nulls: int
    null_positives: int
    """Number of nulls in rows with label 1, since missing values may reveal the label."""
    values: int
    """Number of values in `bins`: neither null, NaN nor infinite; for lists, the items."""
    nan: int
    infinite: int
    blank: int
    """Number of empty strings."""
    minimum: float | None
    """Minimum of finite numbers, or of times in microseconds since 1970; None: no such values."""
    maximum: float | None
    total: ExactSum
    squares: ExactSum
    bins: Bins
    """Numbers: 32 bins per power of two. Times: hours since 1970. Texts, ids: 256 by hash."""
    sample: CountedSample

    def merge(self, other: ColumnProfile) -> ColumnProfile:
        """Merge with the profile of other rows.

        Raises:
            CorruptDataError: The column has different kinds, such as number and text.
        """
        kinds = {self.kind, other.kind} - {"empty"} or {"empty"}
        if len(kinds) > 1:
            raise CorruptDataError(
                f"the column mixes two kinds of values: {', '.join(sorted(kinds))}"
                f" ({', '.join(self.types)} and {', '.join(other.types)})",
                hint="files of one day must agree on their types",
            )
        lows = [low for low in (self.minimum, other.minimum) if low is not None]
        highs = [high for high in (self.maximum, other.maximum) if high is not None]
        kind: ColumnKind = kinds.pop()
        return ColumnProfile(
            kind=kind,
            types=tuple(sorted({*self.types, *other.types})),
            rows=self.rows + other.rows,
            nulls=self.nulls + other.nulls,
            null_positives=self.null_positives + other.null_positives,
            values=self.values + other.values,
            nan=self.nan + other.nan,
            infinite=self.infinite + other.infinite,
            blank=self.blank + other.blank,
            minimum=min(lows, default=None),
            maximum=max(highs, default=None),
            total=self.total + other.total,
            squares=self.squares + other.squares,
            bins=self.bins.merge(other.bins),
            sample=self.sample.merge(other.sample),
        )

    @property
    def null_share(self) -> float:
        """Share of rows that are null."""
        return self.nulls / self.rows if self.rows else 0.0

    @property
    def mean(self) -> float | None:
        """Mean of the finite numbers; None for other kinds."""
        if self.kind != "number" or not self.values:
            return None
        return float(self.total.fraction / self.values)

    @property
    def std(self) -> float | None:
        """Population standard deviation of the finite numbers; None for other kinds."""
        if self.kind != "number" or not self.values:
            return None
        return deviation(self.total, self.squares, self.values)

    @property
    def distinct(self) -> float:
        """Number of distinct values; see `CountedSample.distinct`."""
        return self.sample.distinct

    def quantile(self, share: float) -> float | None:
        """Quantile of the finite numbers: exact for few distinct values, else within 3%."""
        if self.kind != "number" or not self.values:
            return None
        if self.sample.complete:
            order = np.argsort(np.asarray(self.sample.values, float), kind="stable")
            reached = np.searchsorted(
                np.cumsum(self.sample.counts[order]), share * self.values, side="left"
            )
            at = min(int(reached), len(order) - 1)
            return float(self.sample.values[order[at]])
        assert self.minimum is not None
        assert self.maximum is not None
        return between_edges(self.bins, share * self.values, self.minimum, self.maximum)

    def top(self, count: int = 10) -> list[tuple[Any, int]]:
        """Most frequent values with their counts; empty if there are too many distinct values."""
        if not self.sample.complete or not self.sample.values:
            return []
        order = np.argsort(-self.sample.counts, kind="stable")[:count]
        return [(self.sample.values[at], int(self.sample.counts[at])) for at in order.tolist()]

    def to_json(self) -> dict[str, Any]:
        """Return JSON values to load the profile from, with derived statistics for readers."""
        return {
            "kind": self.kind,
            "types": list(self.types),
            "rows": self.rows,
            "nulls": self.nulls,
            "null_positives": self.null_positives,
            "values": self.values,
            "nan": self.nan,
            "infinite": self.infinite,
            "blank": self.blank,
            "minimum": self.minimum,
            "maximum": self.maximum,
            "total": self.total.to_json(),
            "squares": self.squares.to_json(),
            "bins": self.bins.to_json(),
            "sample": self.sample.to_json(),
            "derived": {
                "mean": self.mean,
                "std": self.std,
                "distinct": self.distinct,
                "quantiles": {
                    str(share): self.quantile(share)
                    for share in (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
                }
                if self.kind == "number"
                else {},
                "top": [list(pair) for pair in self.top()],
            },
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ColumnProfile:
        """Inverse of `to_json`."""
        plain = {key: part for key, part in value.items() if key != "derived"}
        return cls(
            **plain
            | {
                "types": tuple(value["types"]),
                "total": ExactSum.from_json(value["total"]),
                "squares": ExactSum.from_json(value["squares"]),
                "bins": Bins.from_json(value["bins"]),
                "sample": CountedSample.from_json(value["sample"]),
            }
        )
