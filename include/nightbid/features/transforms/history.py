"""Transforms that use a key's rows on earlier days: its label rate and its number of rows."""

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
from nightbid.counts import counted
from nightbid.errors import DataError
from nightbid.features.mapped import KeyedRows, distinct_keys, joined
from nightbid.features.state import WEIGHT_UNIT, FittedState
from nightbid.features.transforms.transform import (
    FeatureSettings,
    Moment,
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
from nightbid.schema import LABEL, TIME, WEIGHT, ModelInput

if TYPE_CHECKING:  # Not needed to score a bundle.
    from nightbid.features.key_statistics import DayCounts
    from nightbid.features.statistics import Statistic

MOST = 2.0**62
"""Maximum sum of values, in units of `WEIGHT_UNIT`, with headroom in int64."""
SUMS = pa.schema(
    {"key": pa.uint64(), "day": pa.int32(), "weight_sum": pa.int64(), "positives_sum": pa.int64()}
)
"""Cumulative sums of a key up to and including each day, in units of `WEIGHT_UNIT`.

Sorted by key and day."""
TOTALS = b"nightbid.totals"
"""Metadata key of the table; its JSON holds the days and the totals of all keys on each."""


@dataclass(frozen=True)
class EarlierSums:
    """Sums over the days before each row; every array is float64 [rows]."""

    weight: Floats
    """Weighted rows of the key."""
    positives: Floats
    all_weight: Floats
    """Weighted rows of all keys."""
    all_positives: Floats
    days: Floats
    """Number of days in the history."""


class History:
    """Cumulative sums by key and day, looked up in place by binary search.

    Sums are integers, so they do not depend on how rows were grouped.
    """

    def __init__(self, table: pa.Table) -> None:
        """Wrap a table of `SUMS`, or of counts by key and day as in older bundles."""
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

    def before(self, keys: Hashes, days: Int32s) -> EarlierSums:
        """Sum over the days strictly before each row's day.

        Args:
            keys: Hash of each row's key, uint64 [rows].
            days: Days since 1970, int32 [rows].
        """
        reached = self.days.searchsorted(days)
        totals = [total[reached] / WEIGHT_UNIT for total in self._totals]
        start, end = self._rows.before(keys, days)
        known = np.flatnonzero(end > start)
        newest = end[known] - 1
        key_sums = [np.zeros(len(keys)), np.zeros(len(keys))]
        for key_sum, values in zip(key_sums, self._sums, strict=True):
            key_sum[known] = values[newest] / WEIGHT_UNIT
        return EarlierSums(
            key_sums[0], key_sums[1], totals[0], totals[1], reached.astype(np.float64)
        )


def sums(ranges: Iterable[pa.Table]) -> pa.Table:
    """Compute the cumulative sums of each key over days.

    Args:
        ranges: Counts by key and day, see `DayCounts.by_range`; each key is in one range only.

    Raises:
        DataError: The sum of the label's values exceeds int64.
    """
    totals: dict[int, list[int]] = {}
    table = joined((_sums_of(counts, totals) for counts in ranges), SUMS)
    days = sorted(totals)
    record = {"days": days, "weight": [totals[day][0] for day in days],
             "positives": [totals[day][1] for day in days]}  # fmt: skip
    reached = sum(record["positives"])
    if reached > MOST or min(record["positives"], default=0) < 0:
        raise DataError(
            f"the values of the label add up to more than {MOST / WEIGHT_UNIT:.1e}",
            where="target_rate",
            hint="log them in a larger unit, such as seconds instead of microseconds",
        )
    return table.replace_schema_metadata({TOTALS: json.dumps(record).encode()})


def _sums_of(counts: pa.Table, totals: dict[int, list[int]]) -> pa.Table:
    """Cumulative sums of a range; also adds its counts to the totals of the days."""
    keys = np.asarray(whole(counts["key"]), np.uint64)
    days = np.asarray(whole(counts["day"]), np.int32)
    values = [np.asarray(whole(counts[name]), np.int64) for name in ("weight", "positives")]
    distinct, place = np.unique(days, return_inverse=True)
    is_first = np.append(True, keys[1:] != keys[:-1])[: len(keys)]
    first = np.maximum.accumulate(np.where(is_first, np.arange(len(keys)), 0))
    columns: list[Any] = [keys, days]
    for number, column in enumerate(values):
        added = np.zeros(len(distinct), np.int64)
        np.add.at(added, place, column)
        for day, total in zip(distinct.tolist(), added.tolist(), strict=True):
            totals.setdefault(day, [0, 0])[number] += total
        until = np.cumsum(column)
        columns.append(until - (until - column)[first])
    return pa.table(columns, schema=SUMS)


class KeyHistory(Transform[FeatureSettings]):
    """A statistic of a key over the days before the row's day."""

    learns_history = True
    drifts = True
    is_log = True

    def depends_on(self) -> dict[str, Any]:
        """The key's columns, and the time zone of the days."""
        zone = self.context.zone
        days = {} if zone == "UTC" else {"zone": zone}
        return {"by_day": list(self.feature.sources(self.name)), **days}

    def statistic(self, raw: RawColumns, rows: pa.Table) -> Statistic:
        """Count rows and positive labels by key and day; rows without a user have no such key."""
        from nightbid.features.key_statistics import DayCounts

        keys, known = self._keys(raw), raw.with_user(self.feature.sources(self.name), self.name)
        if known is not None:
            keys, rows = keys[known], rows.select([LABEL, WEIGHT, TIME]).filter(pa.array(known))
        return DayCounts.of(keys, rows, self.context.zone)

    def fit(self, statistic: DayCounts) -> FittedState:
        """Return the cumulative sums of the counts."""
        return FittedState(history=sums(statistic.by_range()))

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """The model input: one float."""
        return (one_float(self.name, self.name, self.feature.training_only),)

    def apply(self, raw: RawColumns) -> dict[str, pa.Array]:
        """Compute the model inputs."""
        zone = self.context.zone
        days = days_of(raw.time(self.context.time, self.name, zone), zone)
        return {self.name: pa.array(self.of_keys(self._keys(raw), days))}

    def of_keys(self, keys: Hashes, days: Int32s) -> Floats32:
        """Compute the model input from keys and days; float32 [rows]."""
        return as_float32(self.values(keys, days))

    @abstractmethod
    def values(self, keys: Hashes, days: Int32s) -> Floats:
        """Compute the unrounded model input; float64 [rows].

        Args:
            keys: Hash of each row's key, uint64 [rows].
            days: Days since 1970, int32 [rows].
        """

    @property
    def reads_time(self) -> Moment:
        """`day`: values depend on the row's day."""
        return "day"

    @property
    def learned(self) -> str:
        """Number of keys, and first and last day of the history."""
        table = self.state.history
        if table is None or not len(table):
            return "no rows"
        days = self.past.days
        first, last = (date(1970, 1, 1) + timedelta(int(day)) for day in (days[0], days[-1]))
        return f"{counted(distinct_keys(table), 'key')}, {first} to {last}"

    @property
    def looks_back(self) -> str:
        """Days that a row uses."""
        return "days before the row's own"

    @cached_property
    def past(self) -> History:
        """The fitted history, ready for lookups."""
        return History(self.state.history if self.state.history is not None else sums([]))

    def _keys(self, raw: RawColumns) -> Hashes:
        return keys_of(self.name, self.feature.sources(self.name), raw)


@implements(Count)
class CountTransform(KeyHistory[Count]):
    """Number of rows of a key per day."""

    def values(self, keys: Hashes, days: Int32s) -> Floats:
        """Compute ln(1 + rows per day)."""
        seen = self.past.before(keys, days)
        return np.log1p(seen.weight / np.maximum(seen.days, 1))

    @property
    def makes(self) -> str:
        """Description of the computation."""
        return "ln(1 + rows of the key per day)"


@implements(TargetRate)
class TargetRateTransform(KeyHistory[TargetRate]):
    """Label rate of a key."""

    def values(self, keys: Hashes, days: Int32s) -> Floats:
        """Compute ln of the smoothed rate over the overall rate, from labels that are final."""
        seen = self.past.before(keys, days - np.int32(self.context.lag_days))
        overall = seen.all_positives / np.maximum(seen.all_weight, 1e-12)
        strength = self.feature.strength
        known = overall > 0
        expected = np.where(known, overall * (seen.weight + strength), 1.0)
        reached = np.where(known, seen.positives + strength * overall, 1.0)
        return np.log(reached / expected)

    @property
    def makes(self) -> str:
        """Description of the computation."""
        strength = self.feature.strength
        return (
            "ln of the key's label rate over the overall one, smoothed by"
            f" {strength:,g} row{'s' * (strength != 1)} of the overall one"
        )

    @property
    def looks_back(self) -> str:
        """Days that a row uses."""
        lag = self.context.lag_days
        if not lag:
            return super().looks_back
        newest = f"the newest {lag:,}" if lag > 1 else "the newest one"
        return f"days before the row's own, without {newest}: labels are not final yet"
