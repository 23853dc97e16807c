"""Predictions of models for every item that could have been shown on a logged row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nightbid.bidding.checks import Bools, Floats, Ints
from nightbid.column_parsing import whole
from nightbid.counts import counted
from nightbid.errors import ConfigError
from nightbid.schema import split_files

CHUNK = 200_000
"""Number of (row, item) pairs to score at once."""
REPEATED = 10
"""Minimum number of repeated items from which item columns can be identified."""
ScoreRows = Callable[[pa.Table], Floats]
"""Takes raw rows and returns probabilities, float64 [rows]."""


@dataclass(frozen=True)
class Offers:
    """Items that could have been shown, concatenated row by row."""

    edges: Ints
    """[rows + 1], offset of each row's first item."""
    codes: Ints
    """[pairs], index of the item in `items`."""
    logged: Ints
    """[rows], index of the shown item in `items`."""
    items: pa.Array
    """Distinct items."""

    @cached_property
    def row(self) -> Ints:
        """[pairs], row of each pair."""
        return np.repeat(np.arange(len(self.logged)), np.diff(self.edges))

    @cached_property
    def is_logged(self) -> Bools:
        """[pairs], whether the item is the one that was shown."""
        return np.asarray(self.codes == self.logged[self.row])

    def sums(self, values: Floats) -> Floats:
        """Sum of [pairs] values over each row's items, [rows]."""
        return np.bincount(self.row, values, len(self.logged)).astype(np.float64)

    @classmethod
    def of(cls, item: pa.ChunkedArray, candidates: pa.ChunkedArray | None) -> Offers:
        """Build from logged columns.

        Args:
            item: [rows], the item that was shown, as text.
            candidates: [rows], lists of the items that could have been shown; None: all items.
        """
        shown = whole(item)
        if candidates is None:
            items = pc.unique(shown)
            rows, size = len(shown), len(items)
            edges = np.arange(rows + 1, dtype=np.int64) * size
            return cls(edges, np.tile(np.arange(size), rows), _places(shown, items), items)
        lists = whole(candidates)
        flat = lists.flatten().cast(pa.string())
        items = pc.unique(pa.concat_arrays([flat, shown]))
        edges = np.concatenate([[0], np.cumsum(lists.value_lengths().fill_null(0))])
        return cls(edges.astype(np.int64), _places(flat, items), _places(shown, items), items)


def _places(values: pa.Array, items: pa.Array) -> Ints:
    return np.asarray(pc.index_in(values, items)).astype(np.int64)


def belonging(table: pa.Table, item: str, day: Ints, read: tuple[str, ...]) -> tuple[str, ...]:
    """Find the columns that have one value per item in all rows of a day.

    Args:
        table: Logged rows.
        item: Name of the item column.
        day: [rows], day number of each row.
        read: Columns to check.

    Raises:
        ConfigError: Too few items were shown more than once to decide.
    """
    keys = pc.dictionary_encode(pc.fill_null(table[item].cast(pa.string()), "")).combine_chunks()
    if isinstance(keys, pa.ChunkedArray):
        keys = pa.concat_arrays(keys.chunks)
    group = np.unique(np.stack([np.asarray(keys.indices), day]), axis=1, return_inverse=True)[1]
    group = group.reshape(-1)
    size = np.bincount(group)
    if (size > 1).sum() < REPEATED:
        raise ConfigError(
            f"only {counted(int((size > 1).sum()), 'item')} shown more than once, too few to tell"
            " which columns belong to the item",
            where="policy",
            hint="name them in policy.item_columns ([] if there are none)",
        )
    columns = []
    for name in read:
        if pa.types.is_nested(table[name].type):
            continue
        codes = _codes(table[name])
        first = np.zeros(len(size), np.int64)
        first[group[::-1]] = codes[::-1]
        if (codes == first[group]).all():
            columns.append(name)
    return tuple(columns)


def _codes(column: pa.ChunkedArray) -> Ints:
    """[rows], equal numbers for equal values; null counts as a value."""
    encoded = whole(pc.dictionary_encode(column, null_encoding="encode"))
    return np.asarray(encoded.indices).astype(np.int64)


def latest_values(
    sample: Path, item: str, columns: tuple[str, ...], items: pa.Array
) -> tuple[pa.Table, int]:
    """Look up each item's latest values, and count the items that were never shown.

    Args:
        sample: Output of the sample stage.
        item: Name of the item column.
        columns: Columns to read, including the item.
        items: Distinct items, as text.

    Returns:
        A table [items, columns], null for items that were never shown; and the number of those
        items.
    """
    tables = [
        pq.read_table(path, columns=list(columns), partitioning=None)
        for split in ("train", "validate", "evaluate")
        for path in split_files(sample, split)
    ]
    table = pa.concat_tables(tables, promote_options="permissive")
    at = _places(whole(table[item].cast(pa.string())), items)
    last = np.full(len(items), -1)
    known = np.flatnonzero(at >= 0)
    last[at[known]] = known  # later rows overwrite earlier ones
    latest = table.take(pa.array(last, mask=last < 0))
    return latest, int((last < 0).sum())


def score_all(
    rows: pa.Table,
    offers: Offers,
    values: pa.Table,
    models: Mapping[str, ScoreRows],
    progress: Callable[[float], None],
) -> dict[str, Floats]:
    """Score each (row, item) pair: the row's context with the item's columns.

    Args:
        rows: Raw columns of the logged rows.
        offers: Items that could have been shown on each row.
        values: [items], columns that belong to the item, including the item itself.
        models: Name → scoring function.
        progress: Called with the share that is done, 0 to 1.

    Returns:
        Name → [pairs] probabilities.
    """
    scored: dict[str, list[Floats]] = {name: [] for name in models}
    for start, table in _pairs(rows, offers, values):
        progress(start / max(len(offers.codes), 1))
        for name, score in models.items():
            scored[name].append(score(table))
    return {name: np.concatenate(parts) for name, parts in scored.items()}


def _pairs(rows: pa.Table, offers: Offers, values: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    row: npt.NDArray[np.int64] = offers.row
    for start in range(0, len(row), CHUNK):
        part = slice(start, start + CHUNK)
        table = rows.take(pa.array(row[part]))
        own = values.take(pa.array(offers.codes[part]))
        # The shown item keeps its values at the time of the impression.
        same = pa.array(offers.is_logged[part])
        for name in values.column_names:
            column = pc.if_else(same, table[name], own[name].cast(table[name].type))
            table = table.set_column(table.column_names.index(name), name, column)
        yield start, table
