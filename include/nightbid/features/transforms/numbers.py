"""Transforms of numbers, which are scaled or assigned to buckets."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.column_parsing import Floats, Ints
from nightbid.config.features import Age, Buckets, Numeric, QuantileBuckets
from nightbid.features.state import FittedState
from nightbid.features.transforms.transform import (
    FeatureSettings,
    Transform,
    implements,
    one_float,
    one_id,
)
from nightbid.features.values import DAY_US, Floats32, Int32s, RawColumns, as_float32, clipped_log
from nightbid.number_parsing import numbers
from nightbid.schema import ModelInput
from nightbid.time_parsing import as_time

if TYPE_CHECKING:  # Not needed to score a bundle.
    from nightbid.features.statistics import Moments, Quantiles, Statistic

SCALES = {
    "none": "the number as it is",
    "standard": "(x - mean) / standard deviation",
    "robust": "(x - median) / interquartile range",
}
MOST_EDGES = 16
"""Maximum number of boundaries to list in documentation."""


class Scaled(Transform[FeatureSettings]):
    """Base of scaled numbers: (x - center) * inverse; a missing value is 0, as the center is."""

    @property
    def tells_missing(self) -> bool:
        """Whether a second input is 1 if the value is missing."""
        return False

    @property
    def statistics(self) -> tuple[str, str]:
        """Names of the center and the scale."""
        return "mean", "standard deviation"

    @abstractmethod
    def values(self, raw: RawColumns) -> Floats:
        """Compute unscaled numbers; float64 [rows], NaN if missing."""

    @property
    def center(self) -> float:
        """Center that is subtracted from each number."""
        return self.state.numbers[0] if self.state.numbers else 0.0

    @property
    def inverse(self) -> float:
        """Inverse of the scale; multiplying is exact everywhere, dividing by a constant is not."""
        return self.state.numbers[1] if self.state.numbers else 1.0

    def statistic(self, raw: RawColumns, rows: pa.Table) -> Statistic:
        """Sum up the numbers."""
        from nightbid.features.statistics import Moments

        return Moments.of(*known_numbers(self.values(raw)))

    def fit(self, statistic: Moments) -> FittedState:
        """Return the mean and the inverse of the standard deviation."""
        return FittedState(numbers=scale_of(statistic))

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """The model inputs: one float, and one for missing values if the settings ask for it."""
        names = [self.name, *([f"{self.name}__missing"] if self.tells_missing else [])]
        return tuple(one_float(name, self.name, self.feature.training_only) for name in names)

    def apply(self, raw: RawColumns) -> dict[str, pa.Array]:
        """Compute the model inputs."""
        inputs = self.of_numbers(self.values(raw))
        return {name: pa.array(values) for name, values in inputs.items()}

    def of_numbers(self, values: Floats) -> dict[str, Floats32]:
        """Compute the model inputs from the result of `values`."""
        missing = np.isnan(values)
        inputs = {self.name: scaled(values, missing, self.center, self.inverse)}
        if self.tells_missing:
            inputs[f"{self.name}__missing"] = missing.astype(np.float32)
        return inputs

    @property
    def learned(self) -> str:
        """Fitted center and scale."""
        first, second = self.statistics
        return f"{first} {self.center:,.6g}, {second} {1 / self.inverse:,.6g}"


@implements(Numeric)
class NumericTransform(Scaled[Numeric]):
    """Numbers of a column."""

    @property
    def _is_robust(self) -> bool:
        return self.feature.scale == "robust"

    def depends_on(self) -> dict[str, Any] | None:
        """The column and the steps before scaling; None if numbers are not scaled."""
        if self.feature.scale == "none":
            return None
        clip = list(self.feature.clip) if self.feature.clip else None
        kind = "quantiles" if self._is_robust else "moments"
        return {kind: self.column, "clip": clip, "log1p": self.feature.log1p, "numeric": True}

    def values(self, raw: RawColumns) -> Floats:
        """Read the numbers; clip them and take the logarithm if the settings ask for it."""
        return clipped_log(self.feature, numbers(raw.column(self.column, self.name)))

    def statistic(self, raw: RawColumns, rows: pa.Table) -> Statistic:
        """Count the numbers, or sum them up."""
        from nightbid.features.statistics import Moments, Quantiles

        distinct, counts = distinct_integers(self.column, self.name, raw)
        known = known_numbers(self.values(distinct), counts)
        return Quantiles.of(*known) if self._is_robust else Moments.of(*known)

    def fit(self, statistic: Any) -> FittedState:
        """Return the center and the inverse of the scale."""
        if not self._is_robust:
            return super().fit(statistic)
        low, middle, high = (statistic.at(share) or 0.0 for share in (0.25, 0.5, 0.75))
        return FittedState(numbers=(middle, 1 / (high - low) if high > low else 1.0))

    @property
    def tells_missing(self) -> bool:
        """Whether a second input is 1 if the value is missing."""
        return self.feature.missing_indicator

    @property
    def statistics(self) -> tuple[str, str]:
        """Names of the center and the scale."""
        return ("median", "interquartile range") if self._is_robust else super().statistics

    @property
    def makes(self) -> str:
        """Description of the computation."""
        feature = self.feature
        steps = [f"clipped to {_span(feature.clip)}"] if feature.clip else []
        steps += ["sign(x) · ln(1 + |x|)"] if feature.log1p else []
        steps += [SCALES[feature.scale]]
        steps += ["a second input is 1 where it is missing"] if feature.missing_indicator else []
        return ", ".join(steps)


@implements(Age)
class AgeTransform(Scaled[Age]):
    """Number of days between two times."""

    def depends_on(self) -> dict[str, Any]:
        """The two time columns."""
        return {"moments": list(self.feature.sources(self.name)), "age": True}

    def values(self, raw: RawColumns) -> Floats:
        """Compute ln(1 + days)."""
        later, since = (raw.column(name, self.name) for name in self.feature.sources(self.name))
        days = (_micros(as_time(later)) - _micros(as_time(since))) / DAY_US
        return np.log1p(np.maximum(days, 0.0))

    @property
    def makes(self) -> str:
        """Description of the computation."""
        return f"days since {self.feature.since}: ln(1 + days), {SCALES['standard']}"


class Bucketed(Transform[FeatureSettings]):
    """Base of bucketed numbers; a boundary belongs to the bucket above it."""

    @property
    @abstractmethod
    def boundaries(self) -> Floats32:
        """Ascending boundaries; float32, like the values compared, so that buckets are stable."""

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """The model input: one id."""
        return (one_id(self.name, len(self.boundaries) + 2, self.feature.training_only),)

    def apply(self, raw: RawColumns) -> dict[str, pa.Array]:
        """Compute the model inputs."""
        values = numbers(raw.column(self.column, self.name))
        return {name: pa.array(ids) for name, ids in self.of_numbers(values).items()}

    def of_numbers(self, values: Floats) -> dict[str, Int32s]:
        """Compute the model input from numbers; NaN is missing."""
        ids = np.searchsorted(self.boundaries, as_float32(values), side="right") + 1
        return {self.name: np.where(np.isnan(values), 0, ids).astype(np.int32)}

    @property
    def learned(self) -> str:
        """Boundaries; if there are many, only the outer ones."""
        shown = [f"{boundary:,.6g}" for boundary in self.boundaries]
        if len(shown) > MOST_EDGES:
            shown[MOST_EDGES // 2 : -MOST_EDGES // 2] = ["…"]
        return f"boundaries {', '.join(shown)}" if shown else "no boundary: every value is alike"


@implements(Buckets)
class BucketsTransform(Bucketed[Buckets]):
    """Buckets between boundaries from the settings."""

    @cached_property
    def boundaries(self) -> Floats32:
        """Boundaries from the settings."""
        return np.asarray(self.feature.boundaries, np.float32)

    @property
    def makes(self) -> str:
        """Description of the computation."""
        edges = ", ".join(f"{boundary:,g}" for boundary in self.feature.boundaries)
        return f"the bucket between {edges}"


@implements(QuantileBuckets)
class QuantileBucketsTransform(Bucketed[QuantileBuckets]):
    """Buckets between quantiles of the training rows."""

    def depends_on(self) -> dict[str, Any]:
        """The column."""
        return {"quantiles": self.column}

    def statistic(self, raw: RawColumns, rows: pa.Table) -> Statistic:
        """Count the numbers."""
        from nightbid.features.statistics import Quantiles

        distinct, counts = distinct_integers(self.column, self.name, raw)
        values = numbers(distinct.column(self.column, self.name))
        return Quantiles.of(*known_numbers(values, counts))

    def fit(self, statistic: Quantiles) -> FittedState:
        """Return the distinct quantiles."""
        shares = np.arange(1, self.feature.buckets) / self.feature.buckets
        quantiles = [statistic.at(float(share)) for share in shares]
        edges = np.unique(
            as_float32(np.array([quantile for quantile in quantiles if quantile is not None]))
        )
        return FittedState(numbers=tuple(edges.astype(float).tolist()))

    @cached_property
    def boundaries(self) -> Floats32:
        """Fitted boundaries."""
        return np.asarray(self.state.numbers, np.float32)

    @property
    def most_new_ids(self) -> int:
        """Maximum number of boundaries: one less than the number of buckets."""
        return self.feature.buckets - 1

    @property
    def makes(self) -> str:
        """Description of the computation."""
        return f"one of {self.feature.buckets:,} buckets that hold equally many training rows"


def scaled(values: Floats, missing: Any, center: float, inverse: float) -> Floats32:
    """Scale numbers; float32 [rows], 0 if missing."""
    return as_float32(np.where(missing, 0.0, (values - center) * inverse))


def scale_of(statistic: Moments) -> tuple[float, float]:
    """Mean and inverse of the standard deviation; the latter is 1 if all numbers are equal."""
    spread = statistic.std
    return statistic.mean, 1 / spread if spread > 0 else 1.0


def known_numbers(values: Floats, counts: Ints | None = None) -> tuple[Floats, Ints]:
    """Drop NaN; returns the remaining numbers and their counts."""
    known = ~np.isnan(values)
    if counts is None:
        values = values[known]
        return values, np.ones(len(values), np.int64)
    return values[known], counts[known]


def distinct_integers(column: str, feature: str, raw: RawColumns) -> tuple[RawColumns, Ints | None]:
    """Reduce a column of integers in a small range to its distinct values and their counts.

    Any other column is returned unchanged, with None for the counts.
    """
    from nightbid.profile.bins import DENSE

    array = raw.column(column, feature)
    if pa.types.is_signed_integer(array.type) and len(array) > array.null_count:
        known = np.asarray(array.drop_null()).astype(np.int64)
        lowest = int(known.min())
        if int(known.max()) - lowest < DENSE * len(known):
            seen = np.bincount(known - lowest).astype(np.int64)
            present = np.flatnonzero(seen)
            distinct = pa.table({column: (present + lowest).astype(np.int64)})
            return RawColumns(distinct), seen[present]
    return raw, None


def _micros(time: pa.Array) -> Floats:
    # Floats cannot overflow, and are exact for 285 years before and after 1970.
    return np.asarray(pc.fill_null(time.cast(pa.int64()).cast(pa.float64(), safe=False), np.nan))


def _span(bounds: tuple[float, float]) -> str:
    return f"[{bounds[0]:,g}, {bounds[1]:,g}]"
