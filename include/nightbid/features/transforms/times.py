"""Transforms of parts of a time, and of small integers."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.config.features import DayOfWeek, Hour, Identity
from nightbid.features.transforms.transform import FeatureSettings, Transform, implements, one_id
from nightbid.features.values import DAY_US, Int32s, Ints, RawColumns, moments_of
from nightbid.number_parsing import numbers
from nightbid.schema import ModelInput
from nightbid.time_parsing import as_time

HOUR_US = 3_600_000_000


class TimePartTransform(Transform[FeatureSettings]):
    """Base of transforms that take a part of a time, UTC."""

    size: ClassVar[int]
    """Number of distinct parts, such as 24 hours."""

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """The model input: one id."""
        return (one_id(self.name, self.size + 1, self.feature.training_only),)

    def apply(self, raw: RawColumns) -> dict[str, pa.Array]:
        """Compute the model inputs."""
        time = as_time(raw.column(self.column, self.name))
        ids = self.of_moments(moments_of(time))
        if time.null_count:
            ids = np.where(np.asarray(pc.is_null(time)), 0, ids).astype(np.int32)
        return {self.name: pa.array(ids)}

    @abstractmethod
    def of_moments(self, moments: Ints) -> Int32s:
        """Compute the model input from microseconds since 1970; int32 [rows]."""


@implements(Hour)
class HourTransform(TimePartTransform[Hour]):
    """Hour of the day."""

    size = 24
    cycle_hours = 24

    def of_moments(self, moments: Ints) -> Int32s:
        """Compute the model input from microseconds since 1970; int32 [rows]."""
        return (moments // HOUR_US % 24 + 1).astype(np.int32)

    @property
    def makes(self) -> str:
        """Description of the computation."""
        return "hour of the day, UTC"


@implements(DayOfWeek)
class DayOfWeekTransform(TimePartTransform[DayOfWeek]):
    """Day of the week; Monday is first."""

    size = 7
    drifts = True
    varies_within_a_day = False

    def of_moments(self, moments: Ints) -> Int32s:
        """Compute the model input from microseconds since 1970; int32 [rows]."""
        return ((moments // DAY_US + 3) % 7 + 1).astype(np.int32)

    @property
    def makes(self) -> str:
        """Description of the computation."""
        return "day of the week, UTC"


@implements(Identity)
class IdentityTransform(Transform[Identity]):
    """A small integer used as an id; any other value is missing."""

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """The model input: one id."""
        return (one_id(self.name, self.feature.size + 1, self.feature.training_only),)

    def apply(self, raw: RawColumns) -> dict[str, pa.Array]:
        """Compute the model inputs."""
        values = numbers(raw.column(self.column, self.name))
        with np.errstate(invalid="ignore"):
            good = (values >= 0) & (values < self.feature.size) & (values == np.floor(values))
        return {self.name: pa.array(np.where(good, values + 1, 0).astype(np.int32))}

    @property
    def makes(self) -> str:
        """Description of the computation."""
        return f"whole number from 0 to {self.feature.size - 1:,}, as it is"
