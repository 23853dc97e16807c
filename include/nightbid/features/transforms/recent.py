"""What a key's earlier rows held: the last items of a user, up to the row's time."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nightbid.column_parsing import Hashes, encode, whole
from nightbid.config.features import Recent
from nightbid.features.state import FittedState
from nightbid.features.transforms.transform import (
    Moment,
    Transform,
    implements,
    matrix_column,
    one_list,
)
from nightbid.features.transforms.vocabulary import FittedVocabulary, vocabulary_of
from nightbid.features.values import (
    DAY_US,
    Int32s,
    Ints,
    RawColumns,
    day_starts,
    keys_of,
    moments_of,
)
from nightbid.schema import ModelInput

if TYPE_CHECKING:  # Not needed where a bundle is scored.
    from nightbid.features.statistics import Events as EventStatistic
    from nightbid.features.statistics import Statistic

SECOND_US = 1_000_000


NO_EVENTS = pa.table(
    {
        "key": pa.array([], pa.uint64()),
        "time": pa.array([], pa.int64()),
        "token": pa.array([], pa.string()),
    }
)


@implements(Recent)
class RecentItems(Transform[Recent]):
    """The last items of the key's rows that were known at the row's time, oldest first.

    A row is known once `delay_seconds` have passed after it, and its label's attribution window
    where only positive rows count. Equal times are in the order of their tokens, so that the
    sequence does not depend on how rows came together.
    """

    learns_history = True
    drifts = True

    def depends_on(self) -> dict[str, Any]:
        """Item, key, and which rows count."""
        feature = self.feature
        return {"events": feature.column, "by": list(feature.by), "rows": feature.rows}

    def statistic(self, raw: RawColumns, rows: pa.Table) -> Statistic:
        """List items by key and time."""
        from nightbid.features.statistics import Events as EventStatistic

        keys = keys_of(self.name, self.feature.by, raw)
        items = raw.encoded(self.feature.column, self.name)
        return EventStatistic.of(keys, items, rows, positive=self.feature.rows == "positive")

    def fit(self, statistic: EventStatistic) -> FittedState:
        """Keep the list."""
        return FittedState(history=statistic.table)

    @property
    def table(self) -> pa.Table:
        """Key uint64, time int64 (microseconds since 1970), token string; sorted by all three."""
        return self.state.history if self.state.history is not None else NO_EVENTS

    @cached_property
    def vocabulary(self) -> FittedVocabulary:
        """That of another feature."""
        return vocabulary_of(self, self.feature.vocabulary)

    @property
    def reads_time(self) -> Moment:
        """The time, or the day alone."""
        return self.feature.before

    @property
    def makes(self) -> str:
        """What it makes of its columns."""
        feature = self.feature
        rows = "whose label was 1" if feature.rows == "positive" else "whatever their label"
        return (
            f"last {feature.length:,} {feature.column} of earlier rows of the same"
            f" {', '.join(feature.by)} {rows}, oldest first,"
            f" of the vocabulary of {feature.vocabulary}"
        )

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """One sequence."""
        feature = self.feature
        return (
            one_list(self, "sequence", self.vocabulary.size, feature.length, feature.vocabulary),
        )

    @property
    def learned(self) -> str:
        """What it remembers."""
        keys = len(np.unique(self.table["key"]))
        return f"{len(self.table):,} rows of {keys:,} keys"

    @property
    def looks_back(self) -> str:
        """Rows that a row learns from."""
        days = self.context.lag_days if self.feature.rows == "positive" else 0
        spans = ((days, "day"), (self.feature.delay_seconds, "second"))
        wait = [f"{size:,} {unit}{'s' * (size != 1)}" for size, unit in spans if size]
        until = "the row's time" if self.feature.before == "time" else "the row's day began"
        return (
            f"rows more than {' and '.join(wait)} before {until}"
            if wait
            else f"rows before {until}"
        )

    def apply(self, raw: RawColumns) -> dict[str, pa.Array]:
        """Compute the columns of its inputs."""
        keys = keys_of(self.name, self.feature.by, raw)
        start, end = self._events.before(keys, self._known(raw))
        length = self.feature.length
        start = np.maximum(start, end - length)
        places = start[:, None] + np.arange(length)
        inside = places < end[:, None]
        return {self.name: matrix_column(self._ids[np.where(inside, places, -1)])}

    def _known(self, raw: RawColumns) -> Ints:
        """Rows before this time count; microseconds, [rows]."""
        time = raw.time(self.context.time, self.name, self.context.zone)
        known = (
            day_starts(time, self.context.zone)
            if self.feature.before == "day"
            else moments_of(time)
        )
        wait = self.feature.delay_seconds * SECOND_US
        if self.feature.rows == "positive":
            wait += self.context.lag_days * DAY_US
        return known - wait

    @cached_property
    def _events(self) -> Events:
        return Events(np.asarray(self.table["key"], np.uint64), np.asarray(self.table["time"]))

    @cached_property
    def _ids(self) -> Int32s:
        """Of each row's item; the last one, 0, stands for no item."""
        return np.append(self.vocabulary.ids(encode(whole(self.table["token"]))), np.int32(0))


class Events:
    """Times by key, so that a lookup is a binary search."""

    def __init__(self, keys: Hashes, times: Ints) -> None:
        """Index.

        Args:
            keys: uint64 [events], ascending.
            times: int64 [events], ascending within a key.
        """
        self._keys, self._starts = np.unique(keys, return_index=True)
        self._times, rank = np.unique(times, return_inverse=True)
        number = np.repeat(
            np.arange(len(self._keys)), np.diff(np.append(self._starts, len(keys)))
        )  # fmt: skip
        self._span = len(self._times) + 1
        self._codes = number * self._span + rank

    def before(self, keys: Hashes, times: Ints) -> tuple[Ints, Ints]:
        """Find each key's events strictly before a time: first, and one past the last; [rows]."""
        if not len(self._keys):
            nothing = np.zeros(len(keys), np.int64)
            return nothing, nothing
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        start = self._starts[at]
        reached = np.searchsorted(self._times, times, side="left")
        end = np.searchsorted(self._codes, at * self._span + reached, side="left")
        return start, np.where(self._keys[at] == keys, end, start)
