"""Reads a run's logged auctions from the sampled rows: prices, floors and values, checked.

Rows that cannot be replayed are left out and counted by reason. Too many of them, or prices in
another unit than on earlier days, are an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nightbid.bidding.auctions import Auctions
from nightbid.bidding.checks import Bools, Floats
from nightbid.column_parsing import whole
from nightbid.config.columns import Columns
from nightbid.counts import counted
from nightbid.errors import CorruptDataError, MissingDataError
from nightbid.number_parsing import numbers
from nightbid.partitions import partition_of
from nightbid.schema import KEY, LABEL, TIME, TRUTH, USER, split_files

HOUR = 3_600_000_000
DAY = "day of the logs"
UNIT_CHANGE = 5.0
"""Factor between median prices from which they are in different units."""
PRICE_ROUNDING = 1e-3
"""Relative tolerance when a price is compared with the bid that it was rounded from."""
LEAST_ROWS = 100
"""Minimum number of rows to compare median prices."""


@dataclass(frozen=True)
class LoggedAuctions:
    """Usable rows of one split, in order of time."""

    auctions: Auctions
    value: Floats | None
    """[rows], values of `columns.value`; None if the pipeline names no such column."""
    rows: Bools
    """Whether each row of the split, in file order, is usable."""
    order: np.ndarray
    """Positions of the usable rows in file order, sorted by time."""
    unusable: Mapping[str, int]
    """Reason → number of rows left out."""
    currency: str = ""
    """Currency of the prices; empty if it is not logged."""

    def among(self, keep: Bools, reason: str) -> LoggedAuctions:
        """Leave out further rows.

        Args:
            keep: Whether to keep each row of the split, in file order.
            reason: Why the other rows are left out.
        """
        inside = keep[self.order]
        if inside.all():
            return self
        return replace(
            self,
            auctions=self.auctions.part(inside),
            value=None if self.value is None else self.value[inside],
            rows=self.rows & keep,
            order=self.order[inside],
            unusable={**self.unusable, reason: int((~inside).sum())},
        )


def read_auctions(
    folder: Path,
    split: str,
    columns: Columns,
    *,
    tolerated: float,
    floor: float | None = None,
    currency: str = "",
) -> LoggedAuctions:
    """Read the auctions of one split.

    Args:
        folder: Output of the sample stage.
        split: `evaluate`, or `validate` for the days before.
        columns: Names of the price, bid, floor and value columns.
        tolerated: Maximum share of unusable rows.
        floor: Floor for every auction; None: the logged floors.
        currency: Currency of the days before; empty: that of most rows.

    Raises:
        MissingDataError: There are no rows, or a column is missing.
        CorruptDataError: More rows are unusable than tolerated.
    """
    names = [
        columns.price, columns.bid, columns.floor, columns.value, columns.competing,
        columns.conversion, columns.currency,
    ]  # fmt: skip
    required = [KEY, LABEL, TIME, USER, *dict.fromkeys(filter(None, names))]
    tables = []
    for path in split_files(folder, split):
        present = pq.read_schema(path).names
        for name in required:
            if name not in present:
                raise MissingDataError(
                    f"there is no column {name!r}",
                    where=path.parent.name,
                    hint="correct `columns` of the pipeline, or the logs",
                )
        rows = pq.read_table(
            path, columns=[*required, *([TRUTH] if TRUTH in present else [])], partitioning=None
        )
        day = partition_of(path.parent.name.removeprefix("dt=")).toordinal()
        tables.append(rows.append_column(DAY, pa.array(np.full(len(rows), day))))
    table = pa.concat_tables(tables, promote_options="permissive") if tables else None
    if table is None or not table.num_rows or columns.price is None:
        raise MissingDataError(
            f"there are no {split} rows with prices",
            where="replay",
            hint="set columns.price, and use a date that has impressions",
        )
    logged = _usable(table, columns, split, tolerated, currency)
    if floor is None:
        return logged
    return replace(
        logged, auctions=replace(logged.auctions, floor=np.full(len(logged.order), floor))
    )


def _usable(
    table: pa.Table, columns: Columns, split: str, tolerated: float, currency: str
) -> LoggedAuctions:
    price, label = numbers(table[columns.price]), numbers(table[LABEL])
    reasons = {
        f"{columns.price} is missing or not finite": np.isnan(price),
        f"{columns.price} is negative": price < 0,
    }
    floor = value = None
    market = price
    if columns.floor:
        floor = numbers(table[columns.floor])
        # Auctions without a floor have null or 0; a negative floor is an error.
        reasons[f"{columns.floor} is negative"] = floor < 0
        floor = np.nan_to_num(floor)
    if columns.competing:
        highest = _highest(columns.competing, table[columns.competing])
        reasons[f"{columns.competing} has a bid that is missing or negative"] = ~(highest >= 0)
        least = highest if floor is None else np.maximum(highest, floor)
        reasons[
            f"{columns.price} is neither the highest of {columns.competing} nor the floor"
        ] = ~np.isclose(price, least, rtol=PRICE_ROUNDING, atol=0)
        # The price paid hides how far the other bids are below the floor.
        market = highest
    if columns.value:
        value = numbers(table[columns.value])
        # Values are often logged for events only.
        value = np.where(np.isnan(value) & (label == 0), 0.0, value)
        reasons[f"{columns.value} is missing or negative"] = ~(value >= 0)
    conversion = None
    if columns.conversion:
        conversion = np.nan_to_num(numbers(table[columns.conversion]))
        reasons[f"{columns.conversion} is neither 0 nor 1"] = (conversion != 0) & (conversion != 1)
    if columns.currency:
        currency, others = other_currency(table[columns.currency], currency)
        reasons[f"{columns.currency} is not {currency!r}, the usual one"] = others
    if columns.bid:
        bid = numbers(table[columns.bid])
        reasons[f"{columns.bid} is missing or negative"] = ~(bid >= 0)
        if floor is not None:
            reasons[f"{columns.bid} is below {columns.floor}"] = bid < floor
        reasons[f"label is 1 but {columns.bid} is below {columns.price}"] = (label == 1) & (
            bid < price
        )
    bad = np.zeros(len(price), np.bool_)
    counts: dict[str, int] = {}
    for reason, rows in reasons.items():
        if count := int((rows & ~bad).sum()):
            counts[reason] = count
        bad |= rows
    if bad.mean() > tolerated or bad.all():
        listed = ", ".join(
            f"{reason} ({counted(count, 'row')})" for reason, count in counts.items()
        )
        raise CorruptDataError(
            f"{int(bad.sum()):,} of {counted(len(bad), f'{split} row')} cannot be replayed:"
            f" {listed}",
            where="replay",
            hint=f"correct the logs or `columns`; replay.unusable tolerates {tolerated:.2%}",
        )
    time = np.asarray(table[TIME].cast(pa.int64()))
    order = np.flatnonzero(~bad)
    order = order[np.argsort(time[order], kind="stable")]
    truth = numbers(table[TRUTH])[order] if TRUTH in table.column_names else None
    if truth is not None and np.isnan(truth).any():
        truth = None
    auctions = Auctions.checked(
        where=f"{split} rows",
        price=market[order],
        click=label[order],
        floor=None if floor is None else floor[order],
        hour=time[order] // HOUR % 24,
        user=np.asarray(table[USER])[order].astype(np.int64).view(np.uint64),
        day=np.asarray(table[DAY])[order],
        conversion=None if conversion is None else conversion[order],
        true_probability=truth,
    )
    known = None if value is None else value[order]
    return LoggedAuctions(auctions, known, ~bad, order, counts, currency)


def other_currency(column: pa.ChunkedArray | pa.Array, usual: str = "") -> tuple[str, Bools]:
    """Find the rows whose prices are in another currency.

    Args:
        column: [rows], currencies; a missing one counts as different.
        usual: Expected currency; empty: that of most rows.

    Returns:
        The expected currency, and [rows], whether the currency differs from it.
    """
    names = pc.cast(column, pa.string())
    if not usual:
        counts = pc.value_counts(names.drop_null()).to_pylist()
        usual = max(counts, key=lambda entry: entry["counts"])["values"] if counts else "known"
    same = pc.fill_null(pc.equal(names, usual), False)
    return usual, ~np.asarray(same)


def _highest(name: str, lists: pa.ChunkedArray) -> Floats:
    """[rows], maximum of each list; 0 if it is empty or missing, NaN if a bid is invalid."""
    array = whole(lists)
    if not pa.types.is_list(array.type) and not pa.types.is_large_list(array.type):
        raise CorruptDataError(
            f"it holds {array.type}, not lists of bids",
            where=f"columns.competing {name}",
            hint="name a column with all competing bids of an auction, or remove it",
        )
    values = numbers(array.flatten())
    values = np.where(values >= 0, values, np.nan)
    count = np.asarray(array.value_lengths().fill_null(0))
    largest = np.zeros(len(array))
    some = count > 0
    starts = np.cumsum(count) - count
    if some.any():
        largest[some] = np.maximum.reduceat(values, starts[some])
    return largest


def price_ratio(now: Auctions, before: Auctions, where: str = "replay") -> float | None:
    """Ratio of the median price to that of earlier days; None if there are too few rows.

    Raises:
        CorruptDataError: The ratio is so large that the unit or currency must have changed.
    """
    if min(len(now), len(before)) < LEAST_ROWS:
        return None
    new, old = float(np.median(now.price)), float(np.median(before.price))
    if not old or not new:
        return None
    if not 1 / UNIT_CHANGE < new / old < UNIT_CHANGE:
        raise CorruptDataError(
            f"the median price is {new:g}, but was {old:g} on the days before",
            where=where,
            hint="the unit or the currency of the prices changed: correct the logs",
        )
    return new / old
