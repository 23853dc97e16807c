"""What a key did on days before a row's own: its rate, and how many rows it had."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property

import numpy as np
import pyarrow as pa

from nightbid.column_parsing import Floats, Hashes
from nightbid.config.features import Count, TargetRate
from nightbid.errors import DataError
from nightbid.features.state import WEIGHT_UNIT
from nightbid.features.transforms import Transform, one_float
from nightbid.features.values import Int32s, Ints, RawColumns, as_float32, days_of, keys_of
from nightbid.schema import ModelInput

MOST = 2.0**62
"""Largest sum of values that int64 holds with room to spare, in units of `WEIGHT_UNIT`."""


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
        reached = np.searchsorted(self._days, days.astype(np.int64), side="left")
        totals = [each[reached] / WEIGHT_UNIT for each in self._totals]
        if not len(self._keys):
            nothing = np.zeros(len(keys))
            return Seen(nothing, nothing, totals[0], totals[1], reached.astype(np.float64))
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        known = self._keys[at] == keys
        offset = np.clip(days.astype(np.int64) - self._first, 0, self._span - 1)
        end = np.searchsorted(self._codes, at * self._span + offset, side="left")
        start = self._starts[at]
        found = [
            np.where(known, (each[end] - each[start]) / WEIGHT_UNIT, 0.0) for each in self._sums
        ]
        return Seen(found[0], found[1], totals[0], totals[1], reached.astype(np.float64))


@dataclass(frozen=True)
class KeyHistory(Transform):
    """The rate or the number of rows of a key, on days before the row's own."""

    name: str
    feature: TargetRate | Count
    table: pa.Table
    time: str
    lag_days: int
    """A label of the last so many days was not final yet on the row's day."""
    zone: str = "UTC"
    """Whose clock the days are of."""

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """One float."""
        return (one_float(self.name, self.name, self.feature.training_only),)

    @property
    def learned(self) -> str:
        """Keys and days that it knows."""
        if not len(self.table):
            return "no rows"
        keys, days = np.unique(self.table["key"]), np.asarray(self.table["day"])
        first, last = (date(1970, 1, 1) + timedelta(int(day)) for day in (days.min(), days.max()))
        return f"{len(keys):,} keys, {first} to {last}"

    @property
    def looks_back(self) -> str:
        """Days that a row learns from."""
        if isinstance(self.feature, TargetRate) and self.lag_days:
            left = f"the newest {self.lag_days:,}" if self.lag_days > 1 else "the newest one"
            return f"days before the row's own, without {left}: labels are not final yet"
        return "days before the row's own"

    @cached_property
    def _history(self) -> History:
        return History(self.table)

    def apply(self, raw: RawColumns) -> dict[str, pa.Array]:
        """Compute the columns of its inputs."""
        keys = keys_of(self.name, self.feature.sources(self.name), raw)
        days = days_of(raw.time(self.time, self.name, self.zone), self.zone)
        if isinstance(self.feature, Count):
            seen = self._history.before(keys, days)
            values = np.log1p(seen.weight / np.maximum(seen.days, 1))
        else:
            seen = self._history.before(keys, days - np.int32(self.lag_days))
            overall = seen.all_positives / np.maximum(seen.all_weight, 1e-12)
            strength = self.feature.strength
            known = overall > 0
            expected = np.where(known, overall * (seen.weight + strength), 1.0)
            reached = np.where(known, seen.positives + strength * overall, 1.0)
            values = np.log(reached / expected)
        return {self.name: pa.array(as_float32(values))}


def _cumulative(values: Ints) -> Ints:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(values)])


def _added(place: Ints, values: Ints, size: int) -> Ints:
    total = np.zeros(size, np.int64)
    np.add.at(total, place, values)
    return total
