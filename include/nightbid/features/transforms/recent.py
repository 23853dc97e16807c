"""Transform of a key's earlier rows: for example the last items of a user before the row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.column_parsing import encode, whole
from nightbid.config.features import Recent
from nightbid.counts import counted
from nightbid.features.mapped import KeyedRows, distinct_keys, joined
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

if TYPE_CHECKING:  # Not needed to score a bundle.
    from nightbid.features.key_statistics import KeyEvents
    from nightbid.features.statistics import Statistic

SECOND_US = 1_000_000

ITEMS = pa.schema({"key": pa.uint64(), "time": pa.int64(), "item": pa.int32()})


@implements(Recent)
class RecentItems(Transform[Recent]):
    """The last items of the key's earlier rows that were known at the row's time, oldest first.

    A row is known `delay_seconds` after its time, plus the attribution window if only positive rows
    count. Rows with equal times are ordered by token, so that the sequence does not depend on how
    rows were grouped.
    """

    learns_history = True
    drifts = True

    def depends_on(self) -> dict[str, Any]:
        """Item and key columns, and which rows count."""
        feature = self.feature
        return {"events": feature.column, "by": list(feature.by), "rows": feature.rows}

    def statistic(self, raw: RawColumns, rows: pa.Table) -> Statistic:
        """Collect items by key and time; rows without a user have no such key."""
        from nightbid.features.key_statistics import KeyEvents

        keys = keys_of(self.name, self.feature.by, raw)
        items = raw.encoded(self.feature.column, self.name)
        known = raw.with_user(self.feature.by, self.name)
        if known is not None:
            items = np.where(known, items[0], -1), items[1]
        return KeyEvents.of(keys, items, rows, positive=self.feature.rows == "positive")

    def fit(self, statistic: KeyEvents) -> FittedState:
        """Return the items, sorted by key and time."""
        return FittedState(history=listed(statistic.by_range()))

    @cached_property
    def table(self) -> pa.Table:
        """Key uint64, time int64 (microseconds since 1970), token (dictionary of strings).

        Sorted by all three.
        """
        table = self.state.history
        # Older bundles have plain strings.
        return listed([] if table is None else [table]) if _is_plain(table) else table

    @cached_property
    def vocabulary(self) -> FittedVocabulary:
        """Vocabulary of another feature, which the settings name."""
        return vocabulary_of(self, self.feature.vocabulary)

    @property
    def reads_time(self) -> Moment:
        """Whether values depend on the row's time, or on its day only."""
        return self.feature.before

    @property
    def makes(self) -> str:
        """Description of the computation."""
        feature = self.feature
        rows = "whose label was 1" if feature.rows == "positive" else "whatever their label"
        return (
            f"last {feature.length:,} {feature.column} of earlier rows of the same"
            f" {', '.join(feature.by)} {rows}, oldest first,"
            f" of the vocabulary of {feature.vocabulary}"
        )

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """The model input: one sequence."""
        feature = self.feature
        return (
            one_list(self, "sequence", self.vocabulary.size, feature.length, feature.vocabulary),
        )

    @property
    def learned(self) -> str:
        """Number of rows and keys in the history."""
        return f"{counted(len(self.table), 'row')} of {counted(distinct_keys(self.table), 'key')}"

    @property
    def looks_back(self) -> str:
        """Rows that a row uses."""
        days = self.context.lag_days if self.feature.rows == "positive" else 0
        spans = ((days, "day"), (self.feature.delay_seconds, "second"))
        wait = [counted(size, unit) for size, unit in spans if size]
        until = "the row's time" if self.feature.before == "time" else "the row's day began"
        return (
            f"rows more than {' and '.join(wait)} before {until}"
            if wait
            else f"rows before {until}"
        )

    def apply(self, raw: RawColumns) -> dict[str, pa.Array]:
        """Compute the model inputs."""
        keys = keys_of(self.name, self.feature.by, raw)
        start, end = self._rows.before(keys, self._known(raw))
        length = self.feature.length
        start = np.maximum(start, end - length)
        places = start[:, None] + np.arange(length)
        inside = places < end[:, None]
        ids = np.zeros(places.shape, np.int32)  # 0 stands for no item
        ids[inside] = self._ids[self._items[places[inside]]]
        return {self.name: matrix_column(ids)}

    def _known(self, raw: RawColumns) -> Ints:
        """Upper bound, exclusive, of the times of known rows; microseconds, int64 [rows]."""
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
    def _rows(self) -> KeyedRows:
        return KeyedRows(
            np.asarray(whole(self.table["key"]), np.uint64),
            np.asarray(whole(self.table["time"]), np.int64),
        )

    @cached_property
    def _items(self) -> Int32s:
        """Index of each table row's token in the dictionary; int32 [entries]."""
        return np.asarray(whole(self.table["token"]).indices, np.int32)

    @cached_property
    def _ids(self) -> Int32s:
        """Vocabulary id of each token in the dictionary; int32 [tokens]."""
        return self.vocabulary.ids(encode(whole(self.table["token"]).dictionary))


def listed(ranges: Iterable[pa.Table]) -> pa.Table:
    """Concatenate the sorted ranges of `KeyEvents.by_range`; dictionary-encode tokens."""
    known = pa.array([], pa.string())

    def numbered() -> Iterator[pa.Table]:
        nonlocal known
        for events in ranges:
            tokens = whole(events["token"]).dictionary_encode()
            places = pc.index_in(tokens.dictionary, value_set=known)
            new = tokens.dictionary.filter(places.is_null())
            fresh = np.arange(len(known), len(known) + len(new), dtype=np.int32)
            codes = np.asarray(places.fill_null(-1)).copy()
            codes[codes < 0] = fresh
            known = pa.concat_arrays([known, new])
            items = codes[np.asarray(tokens.indices)]
            yield pa.table([events["key"], events["time"], items], schema=ITEMS)

    table = joined(numbered(), ITEMS)
    tokens = pa.DictionaryArray.from_arrays(whole(table["item"]), known)
    return pa.table({"key": table["key"], "time": table["time"], "token": tokens})


def _is_plain(table: pa.Table | None) -> bool:
    return table is None or not pa.types.is_dictionary(table.schema.field("token").type)
