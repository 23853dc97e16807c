"""Selects the events of one stream from a folder that holds several kinds of events."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.column_parsing import encode, whole
from nightbid.config.event_source import EventStream
from nightbid.errors import MissingDataError
from nightbid.schema import REASON, TEXT

NO_KIND = "a row without {}, so its kind of event is unknown"


class EventKinds:
    """Rows of one stream by `only`, and the kinds of the rows that were left out.

    Args:
        stream: The stream's settings.
        key: Column of the impression id, if the stream takes rows without a kind: they get a reason
            and no id. One stream of a folder takes them, so that they are set aside once.
    """

    def __init__(self, stream: EventStream, key: str = "") -> None:
        self._only = stream.only
        self._key = key
        self._kept = 0
        self._others: Counter[str] = Counter()

    def select(self, table: pa.Table) -> pa.Table:
        """Keep the rows whose columns have the values of `only`.

        Args:
            table: Rows of the folder, with the columns of `only`; with `key`, also its column and
                those of `with_broken`.
        """
        if not self._only:
            return table
        keep = np.ones(len(table), bool)
        unknown = np.zeros(len(table), bool)
        for column, values in self._only.items():
            codes, tokens = encode(table[column])
            expected = np.append(np.asarray(pc.is_in(tokens, pa.array(values, pa.string()))), False)
            keep &= expected[codes]
            unknown |= codes < 0
            if not expected.all():
                names = np.bincount(codes[codes >= 0], minlength=len(tokens))
                self._others.update(
                    {str(token): int(rows) for token, rows in zip(tokens, names, strict=True)
                     if rows and token.as_py() not in values}
                )  # fmt: skip
        self._kept += int(keep.sum())
        if self._key:
            table = self._without_kind(table, unknown)
            keep |= unknown
        return table.filter(pa.array(keep))

    def check(self, where: str) -> None:
        """Refuse a day whose rows are all of other kinds: `only` is then misspelled.

        Args:
            where: Folder and day, for the error message.

        Raises:
            MissingDataError: There are rows, and none of them is of this stream.
        """
        if self._kept or not self._others:
            return
        expected = ", ".join(f"{name}: {', '.join(only)}" for name, only in self._only.items())
        kinds = ", ".join(f"{kind!r} ({rows:,})" for kind, rows in self._others.most_common(6))
        raise MissingDataError(
            f"no row has {expected}; there are {kinds}",
            where=where,
            hint="correct `only` of this stream",
        )

    def _without_kind(self, table: pa.Table, unknown: npt.NDArray[np.bool_]) -> pa.Table:
        reason, text, key = (whole(table[name]) for name in (REASON, TEXT, self._key))
        fresh = pc.and_(pa.array(unknown), pc.is_null(reason))
        if not pc.any(fresh).as_py():
            return table
        columns = {
            REASON: pc.if_else(fresh, NO_KIND.format(", ".join(self._only)), reason),
            TEXT: pc.if_else(fresh, key.cast(pa.string()), text),
            self._key: pc.if_else(fresh, pa.scalar(None, key.type), key),
        }
        for name, values in columns.items():
            table = table.set_column(table.column_names.index(name), name, values)
        return table
