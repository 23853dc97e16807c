"""Restores what Arrow drops when it reads texts of JSON as times: their zone and their spelling."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from nightbid.column_parsing import whole
from nightbid.time_parsing import ENDS_IN_ZONE, as_time

ZONED = re.compile(rb"[Tt ][0-9:.,]+ ?(?:[Zz]|[+-][0-9]{2}:?(?:[0-9]{2})?)\"")
"""Pattern of a text that may be a time with a zone."""


def innermost(kind: pa.DataType) -> pa.DataType:
    """Return the type of the items of a list, at any depth; the type itself if it is no list."""
    while pa.types.is_list(kind):
        kind = kind.value_type
    return kind


@dataclass(frozen=True)
class JsonTimes:
    """How texts that are times are read."""

    texts: frozenset[str] = frozenset()
    """Columns whose texts are kept as written, even if all of them are times."""
    zone: str = "UTC"
    """Time zone of times that state none, in a column in which other times state one."""

    def to_read_again(self, block: bytes, fields: Iterable[pa.Field]) -> list[pa.Field]:
        """Return the fields of times that have to be read again, as texts; empty if none.

        Args:
            block: JSON lines.
            fields: Fields that Arrow inferred from them, with objects as structs.
        """
        return _times_as_texts(fields) if self.texts or ZONED.search(block) else []

    def column(self, name: str, texts: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array | None:
        """Read the texts of a column of times; None: as Arrow reads it.

        Returns:
            The texts; or if any of them states a zone, timestamp[us, UTC].
        """
        if name in self.texts:
            return texts
        if not pa.types.is_string(texts.type):
            return None
        has_zone = pc.any(pc.match_substring_regex(texts, ENDS_IN_ZONE)).as_py()
        return as_time(whole(texts), self.zone) if has_zone else None


PLAIN = JsonTimes()
"""Times of files whose days are in UTC."""


def _times_as_texts(fields: Iterable[pa.Field]) -> list[pa.Field]:
    """Select the fields that Arrow read as times, at any depth, and make them texts."""
    chosen = []
    for field in fields:
        if pa.types.is_struct(field.type):
            if inside := _times_as_texts(field.type):
                chosen.append(pa.field(field.name, pa.struct(inside)))
        elif pa.types.is_timestamp(innermost(field.type)):
            chosen.append(pa.field(field.name, _as_text(field.type)))
    return chosen


def _as_text(kind: pa.DataType) -> pa.DataType:
    return pa.list_(_as_text(kind.value_type)) if pa.types.is_list(kind) else pa.string()
