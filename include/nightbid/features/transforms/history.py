"""What a key did on days before a row's own: its rate, and how many rows it had."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nightbid.column_parsing import Floats, Hashes
from nightbid.config.features import Count, TargetRate
from nightbid.errors import DataError
from nightbid.features.state import WEIGHT_UNIT, FittedState
from nightbid.features.transforms.transform import (
    Moment,
    Settings,
    Transform,
    implements,
    one_float,
)
from nightbid.features.values import (
    Floats32,
    Int32s,
    Ints,
    RawColumns,
    as_float32,
    days_of,
    keys_of,
)
from nightbid.schema import ModelInput

if TYPE_CHECKING:  # Not needed where a bundle is scored.
    from nightbid.features.statistics import DayCounts, Statistic

MOST = 2.0**62
"""Largest sum of values that int64 holds with room to spare, in units of `WEIGHT_UNIT`."""
NO_HISTORY = pa.table(
    {
        "key": pa.array([], pa.uint64()),
        "day": pa.array([], pa.int32()),
        "weight": pa.array([], pa.int64()),
        "positives": pa.array([], pa.int64()),
    }
)


@dataclass(frozen=True)
class Seen:
    """What was known when each row was served; float64 [rows] each."""

    weight: Floats
    """Weighted rows of the key."""
    positives: Floats
    all_weight: Floats
    """Of all keys."""
    all_positives: Floats
    days: Floats
    """Days that history covers."""


class History:
    """Cumulative sums by key and day, so that a lookup is a binary search.

    Sums are of integers: they do not depend on how rows came together.
    """

    def __init__(self, table: pa.Table) -> None:
        keys = np.asarray(table["key"], np.uint64)
        days = np.asarray(table["day"], np.int64)
        sums = [np.asarray(table[name], np.int64) for name in ("weight", "positives")]
        if len(table) and (sums[1].min() < 0 or sums[1].sum(dtype=np.float64) > MOST):
            raise DataError(
                f"the values of the label add up to more than {MOST / WEIGHT_UNIT:.1e}",
                where="target_rate",
                hint="log them in a larger unit, such as seconds instead of microseconds",
            )
        self._keys, self._starts = np.unique(keys, return_index=True)
        self._days = np.unique(days)
        self._first = int(self._days[0]) if len(days) else 0
        self._span = int(self._days[-1]) - self._first + 2 if len(days) else 1
        number = np.repeat(
            np.arange(len(self._keys)), np.diff(np.append(self._starts, len(keys)))
        ).astype(np.int64)
        self._codes = number * self._span + (days - self._first)
        self._sums = [_cumulative(each) for each in sums]
        place = np.searchsorted(self._days, days)
        self._totals = [_cumulative(_added(place, each, len(self._days))) for each in sums]

    def before(self, keys: Hashes, days: Int32s) -> Seen:
        """Sum over days strictly before each row's.

        Args:
            keys: uint64 [rows].
            days: [rows], since 1970.
        """
        days = days.astype(np.int64)
        reached = self._days.searchsorted(days)
        totals = [each[reached] / WEIGHT_UNIT for each in self._totals]
        if not len(self._keys):
            nothing = np.zeros(len(keys))
            return Seen(nothing, nothing, totals[0], totals[1], reached.astype(np.float64))
        at = np.minimum(self._keys.searchsorted(keys), len(self._keys) - 1)
        known = self._keys[at] == keys
        offset = np.minimum(np.maximum(days - self._first, 0), self._span - 1)
        end = self._codes.searchsorted(at * self._span + offset)
        start = self._starts[at]
        found = [
            np.where(known, (each[end] - each[start]) / WEIGHT_UNIT, 0.0) for each in self._sums
        ]
        return Seen(found[0], found[1], totals[0], totals[1], reached.astype(np.float64))


class KeyHistory(Transform[Settings]):
    """A figure of a key, from the days before the row's own."""

    learns_history = True
    drifts = True
    is_log = True

    def depends_on(self) -> dict[str, Any]:
        """The columns of its key, and whose days they are."""
        zone = self.context.zone
        days = {} if zone == "UTC" else {"zone": zone}
        return {"by_day": list(self.feature.sources(self.name)), **days}

    def statistic(self, raw: RawColumns, rows: pa.Table) -> Statistic:
        """Count rows and positive labels by key and day."""
        from nightbid.features.statistics import DayCounts

        return DayCounts.of(self._keys(raw), rows, self.context.zone)

    def fit(self, statistic: DayCounts) -> FittedState:
        """Keep the counts."""
        return FittedState(history=statistic.table)

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """One float."""
        return (one_float(self.name, self.name, self.feature.training_only),)

    def apply(self, raw: RawColumns) -> dict[str, pa.Array]:
        """Compute the columns of its inputs."""
        zone = self.context.zone
        days = days_of(raw.time(self.context.time, self.name, zone), zone)
        return {self.name: pa.array(self.of_keys(self._keys(raw), days))}

    def of_keys(self, keys: Hashes, days: Int32s) -> Floats32:
        """Compute its input from the keys of rows and their days; float32 [rows]."""
        return as_float32(self.values(keys, days))

    @abstractmethod
    def values(self, keys: Hashes, days: Int32s) -> Floats:
        """Compute a number per row; float64 [rows].

        Args:
            keys: uint64 [rows].
            days: Since 1970, int32 [rows].
        """

    @property
    def reads_time(self) -> Moment:
        """The day."""
        return "day"

    @property
    def learned(self) -> str:
        """Keys and days that it knows."""
        table = self.state.history
        if table is None or not len(table):
            return "no rows"
        keys, days = np.unique(table["key"]), np.asarray(table["day"])
        first, last = (date(1970, 1, 1) + timedelta(int(day)) for day in (days.min(), days.max()))
        return f"{len(keys):,} keys, {first} to {last}"

    @property
    def looks_back(self) -> str:
        """Days that a row learns from."""
        return "days before the row's own"

    @cached_property
    def past(self) -> History:
        """What it has learned, ready to be looked up."""
        return History(self.state.history if self.state.history is not None else NO_HISTORY)

    def _keys(self, raw: RawColumns) -> Hashes:
        return keys_of(self.name, self.feature.sources(self.name), raw)


@implements(Count)
class CountTransform(KeyHistory[Count]):
    """Rows of a key per day."""

    def values(self, keys: Hashes, days: Int32s) -> Floats:
        """Compute ln(1 + rows per day)."""
        seen = self.past.before(keys, days)
        return np.log1p(seen.weight / np.maximum(seen.days, 1))

    @property
    def makes(self) -> str:
        """What it makes of its columns."""
        return "ln(1 + rows of the key per day)"


@implements(TargetRate)
class TargetRateTransform(KeyHistory[TargetRate]):
    """Rate of positive labels of a key."""

    def values(self, keys: Hashes, days: Int32s) -> Floats:
        """Compute ln of the smoothed rate over the overall one, from labels that are final."""
        seen = self.past.before(keys, days - np.int32(self.context.lag_days))
        overall = seen.all_positives / np.maximum(seen.all_weight, 1e-12)
        strength = self.feature.strength
        known = overall > 0
        expected = np.where(known, overall * (seen.weight + strength), 1.0)
        reached = np.where(known, seen.positives + strength * overall, 1.0)
        return np.log(reached / expected)

    @property
    def makes(self) -> str:
        """What it makes of its columns."""
        return (
            "ln of the key's label rate over the overall one, smoothed by"
            f" {self.feature.strength:,g} rows of the overall one"
        )

    @property
    def looks_back(self) -> str:
        """Days that a row learns from."""
        lag = self.context.lag_days
        if not lag:
            return super().looks_back
        left = f"the newest {lag:,}" if lag > 1 else "the newest one"
        return f"days before the row's own, without {left}: labels are not final yet"


def _cumulative(values: Ints) -> Ints:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(values)])


def _added(place: Ints, values: Ints, size: int) -> Ints:
    total = np.zeros(size, np.int64)
    np.add.at(total, place, values)
    return total
