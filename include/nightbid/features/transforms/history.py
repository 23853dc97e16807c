"""What a key did on days before a row's own: its rate, and how many rows it had."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nightbid.column_parsing import Floats, Hashes, whole
from nightbid.config.features import Count, TargetRate
from nightbid.errors import DataError
from nightbid.features.mapped import KeyedRows, distinct_keys, joined
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
    RawColumns,
    as_float32,
    days_of,
    keys_of,
)
from nightbid.schema import ModelInput

if TYPE_CHECKING:  # Not needed where a bundle is scored.
    from nightbid.features.key_statistics import DayCounts
    from nightbid.features.statistics import Statistic

MOST = 2.0**62
"""Largest sum of values that int64 holds with room to spare, in units of `WEIGHT_UNIT`."""
SUMS = pa.schema(
    {"key": pa.uint64(), "day": pa.int32(), "weight_sum": pa.int64(), "positives_sum": pa.int64()}
)
"""Of a key's days up to and with each, in units of `WEIGHT_UNIT`; sorted by key and day."""
TOTALS = b"nightbid.totals"
"""Mark of the table: days, and the sums of all keys on each, as JSON."""


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
    """Sums by key and day, looked up in place by binary search.

    Sums are of integers: they do not depend on how rows came together.
    """

    def __init__(self, table: pa.Table) -> None:
        """Look up in a table of `SUMS`, or one of counts by key and day as bundles once had."""
        if table.schema.names != SUMS.names:
            table = sums([table])
        totals = json.loads(table.schema.metadata[TOTALS])
        self.days = np.array(totals["days"], np.int32)
        self._totals = [
            np.concatenate([np.zeros(1, np.int64), np.cumsum(np.array(totals[name], np.int64))])
            for name in ("weight", "positives")
        ]
        self._rows = KeyedRows(
            np.asarray(whole(table["key"]), np.uint64), np.asarray(whole(table["day"]), np.int32)
        )
        self._sums = [
            np.asarray(whole(table[name]), np.int64) for name in ("weight_sum", "positives_sum")
        ]

    def before(self, keys: Hashes, days: Int32s) -> Seen:
        """Sum over days strictly before each row's.

        Args:
            keys: uint64 [rows].
            days: [rows], since 1970.
        """
        reached = self.days.searchsorted(days)
        totals = [each[reached] / WEIGHT_UNIT for each in self._totals]
        start, end = self._rows.before(keys, days)
        known = np.flatnonzero(end > start)
        newest = end[known] - 1
        found = [np.zeros(len(keys)), np.zeros(len(keys))]
        for each, values in zip(found, self._sums, strict=True):
            each[known] = values[newest] / WEIGHT_UNIT
        return Seen(found[0], found[1], totals[0], totals[1], reached.astype(np.float64))


def sums(ranges: Iterable[pa.Table]) -> pa.Table:
    """Add up the counts of each key from day to day.

    Args:
        ranges: counts by key and day, see `DayCounts.by_range`; no key is in two of them.

    Raises:
        DataError: the label's values add up to more than int64 holds.
    """
    totals: dict[int, list[int]] = {}
    table = joined((_sums_of(each, totals) for each in ranges), SUMS)
    days = sorted(totals)
    found = {"days": days, "weight": [totals[day][0] for day in days],
             "positives": [totals[day][1] for day in days]}  # fmt: skip
    reached = sum(found["positives"])
    if reached > MOST or min(found["positives"], default=0) < 0:
        raise DataError(
            f"the values of the label add up to more than {MOST / WEIGHT_UNIT:.1e}",
            where="target_rate",
            hint="log them in a larger unit, such as seconds instead of microseconds",
        )
    return table.replace_schema_metadata({TOTALS: json.dumps(found).encode()})


def _sums_of(counts: pa.Table, totals: dict[int, list[int]]) -> pa.Table:
    """Sums of a range; its counts are added to the days' totals."""
    keys = np.asarray(whole(counts["key"]), np.uint64)
    days = np.asarray(whole(counts["day"]), np.int32)
    values = [np.asarray(whole(counts[name]), np.int64) for name in ("weight", "positives")]
    distinct, place = np.unique(days, return_inverse=True)
    is_first = np.append(True, keys[1:] != keys[:-1])[: len(keys)]
    first = np.maximum.accumulate(np.where(is_first, np.arange(len(keys)), 0))
    columns: list[Any] = [keys, days]
    for number, each in enumerate(values):
        added = np.zeros(len(distinct), np.int64)
        np.add.at(added, place, each)
        for day, total in zip(distinct.tolist(), added.tolist(), strict=True):
            totals.setdefault(day, [0, 0])[number] += total
        until = np.cumsum(each)
        columns.append(until - (until - each)[first])
    return pa.table(columns, schema=SUMS)


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
        from nightbid.features.key_statistics import DayCounts

        return DayCounts.of(self._keys(raw), rows, self.context.zone)

    def fit(self, statistic: DayCounts) -> FittedState:
        """Keep the sums of the counts."""
        return FittedState(history=sums(statistic.by_range()))

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
        days = self.past.days
        first, last = (date(1970, 1, 1) + timedelta(int(day)) for day in (days[0], days[-1]))
        return f"{distinct_keys(table):,} keys, {first} to {last}"

    @property
    def looks_back(self) -> str:
        """Days that a row learns from."""
        return "days before the row's own"

    @cached_property
    def past(self) -> History:
        """What it has learned, ready to be looked up."""
        return History(self.state.history if self.state.history is not None else sums([]))

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
