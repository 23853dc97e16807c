"""Faults of logs that can be injected into a simulated day.

Each fault is a function of some rows, their numbers in the day and an amount. It uses no other
rows, so a day has the same bytes whatever the chunk size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.config.faults import Fault
from nightbid.config.sources import SimulatorSource
from nightbid.data.simulator.draws import Floats, Ints, uniform
from nightbid.data.simulator.impressions import SimulatedExchange
from nightbid.data.simulator.world import Users

HOUR = 3_600_000_000
"""One hour in microseconds."""
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class FaultyRows:
    """Some rows of a day, with what a fault needs to know about them."""

    table: pa.Table
    index: Ints
    """Number of each row in the day without faults."""
    day: date
    settings: SimulatorSource
    users: Users

    def draw(self, stream: str) -> Floats:
        """Uniform random number for each row."""
        return uniform(self.settings.seed, f"{self.day} fault {stream}", self.index)

    def values(self, name: str) -> npt.NDArray[np.generic]:
        """A column without nulls."""
        return np.asarray(self.table[name])

    def set(self, name: str, column: pa.Array | pa.ChunkedArray) -> FaultyRows:
        """Replace a column."""
        place = self.table.column_names.index(name)
        return replace(self, table=self.table.set_column(place, name, column))

    def where(self, name: str, rows: Bools, value: object) -> FaultyRows:
        """Replace the values of a column in some rows by one value or by those of an array."""
        column = self.table[name]
        if not isinstance(value, (pa.Array, pa.ChunkedArray)):
            value = pa.scalar(value, column.type)
        return self.set(name, pc.if_else(pa.array(rows), value, column))

    def take(self, places: npt.NDArray[np.integer]) -> FaultyRows:
        """Select rows by position, in this order."""
        return replace(self, table=self.table.take(pa.array(places)), index=self.index[places])

    def keep(self, rows: Bools) -> FaultyRows:
        """Keep only the selected rows."""
        return self.take(np.flatnonzero(rows))

    def hour(self) -> Ints:
        """Hour of the day of each row, UTC."""
        time = self.table["time"].cast(pa.int64())
        return np.asarray(time) // HOUR % 24

    def shift(self, name: str, microseconds: int | Ints) -> pa.Array:
        """A time column, shifted to later by a number of microseconds."""
        column = self.table[name]
        return pc.add(column.cast(pa.int64()), pa.array(
            np.broadcast_to(np.int64(microseconds), len(column)).astype(np.int64)
        )).cast(column.type)  # fmt: skip


def apply(rows: FaultyRows, fault: Fault) -> FaultyRows:
    """Inject one fault into some rows of its day."""
    return KINDS[fault.kind](rows, fault.amount)


def _clicked(rows: FaultyRows, clicked: Bools) -> FaultyRows:
    """Rewrite the label and the columns that depend on it."""
    time = rows.shift("time", 5_000_000)
    known = rows.table["click_time"]
    was = pc.fill_null(known, time)
    rows = rows.set("click", pa.array(clicked.astype(np.int8)))
    rows = rows.set("click_time", pc.if_else(pa.array(clicked), was, pa.scalar(None, known.type)))
    converted = rows.values("conversion").astype(bool) & clicked
    rows = rows.set("conversion", pa.array(converted.astype(np.int8)))
    return rows.where("conversion_time", ~converted, None)


def _nulls(rows: FaultyRows, amount: float) -> FaultyRows:
    return rows.where("advertiser_id", rows.draw("nulls") < amount, None)


def _blanks(rows: FaultyRows, amount: float) -> FaultyRows:
    return rows.where("region", rows.draw("blanks") < amount, "")


def _null_keys(rows: FaultyRows, amount: float) -> FaultyRows:
    return rows.where("impression_id", rows.draw("null keys") < amount, None)


def _sentinels(rows: FaultyRows, amount: float) -> FaultyRows:
    return rows.where("account_age_days", rows.draw("sentinels") < amount, -1)


def _dropped_column(rows: FaultyRows, amount: float) -> FaultyRows:
    return replace(rows, table=rows.table.drop_columns(["site_id"]))


def _renamed_column(rows: FaultyRows, amount: float) -> FaultyRows:
    names = ["device" if name == "device_type" else name for name in rows.table.column_names]
    return replace(rows, table=rows.table.rename_columns(names))


def _type_change(rows: FaultyRows, amount: float) -> FaultyRows:
    return rows.set("account_age_days", rows.table["account_age_days"].cast(pa.string()))


def _shifted_numbers(rows: FaultyRows, amount: float) -> FaultyRows:
    name = "seconds_since_last_ad"
    return rows.set(name, pc.multiply(rows.table[name], amount))


def _new_categories(rows: FaultyRows, amount: float) -> FaultyRows:
    return rows.where("connection", rows.draw("new categories") < amount, "6g")


def _upper_case(rows: FaultyRows, amount: float) -> FaultyRows:
    return rows.set("creative_format", pc.utf8_upper(rows.table["creative_format"]))


def _garbled_strings(rows: FaultyRows, amount: float) -> FaultyRows:
    garbled = pc.replace_substring(rows.table["page_category"], "_", "Ã¼")
    return rows.where("page_category", rows.draw("garbled") < amount, garbled)


def _truncated_ids(rows: FaultyRows, amount: float) -> FaultyRows:
    return rows.set("site_id", pc.utf8_slice_codeunits(rows.table["site_id"], 0, int(amount)))


def _swapped_columns(rows: FaultyRows, amount: float) -> FaultyRows:
    device, system = rows.table["device_type"], rows.table["os"]
    return rows.set("device_type", system).set("os", device)


def _constant_column(rows: FaultyRows, amount: float) -> FaultyRows:
    return rows.where("device_type", np.ones(len(rows.index), bool), "phone")


def _stale_join(rows: FaultyRows, amount: float) -> FaultyRows:
    stale = rows.draw("stale") < amount
    other = pa.array((rows.draw("other user") * rows.settings.users).astype(np.int64))
    own = pa.array(np.arange(len(stale)) + rows.settings.users)
    choice = pc.if_else(pa.array(stale), other, own)
    for name in ("age_band", "gender", "region", "interests"):
        # Arrow's selection by row does not support lists; taking from the concatenated columns is
        # equivalent.
        both = pa.concat_arrays(
            [rows.users.columns[name], *(chunk for chunk in rows.table[name].chunks)]
        )
        rows = rows.set(name, both.take(choice))
    return rows


def _user_id_reset(rows: FaultyRows, amount: float) -> FaultyRows:
    return rows.set("user_id", pc.replace_substring(rows.table["user_id"], "u", "n"))


def _ad_id_rehash(rows: FaultyRows, amount: float) -> FaultyRows:
    return rows.set("ad_id", pc.utf8_reverse(rows.table["ad_id"]))


def _out_of_range_position(rows: FaultyRows, amount: float) -> FaultyRows:
    return rows.where("position", rows.draw("position") < amount, 99)


def _duplicated_hour(rows: FaultyRows, amount: float) -> FaultyRows:
    return rows.take(np.repeat(np.arange(len(rows.index)), 1 + (rows.hour() == int(amount))))


def _duplicated_day(rows: FaultyRows, amount: float) -> FaultyRows:
    return rows.take(np.repeat(np.arange(len(rows.index)), 2))


def _missing_hour(rows: FaultyRows, amount: float) -> FaultyRows:
    return rows.keep(rows.hour() != int(amount))


def _no_rows(rows: FaultyRows, amount: float) -> FaultyRows:
    return rows.keep(np.zeros(len(rows.index), bool))


def _half_day(rows: FaultyRows, amount: float) -> FaultyRows:
    return rows.keep(rows.hour() < amount)


def _traffic_drop(rows: FaultyRows, amount: float) -> FaultyRows:
    return rows.keep(rows.draw("drop") >= amount)


def _traffic_spike(rows: FaultyRows, amount: float) -> FaultyRows:
    # With 1.6, three of five rows appear twice.
    times = max(int(amount), 1) + (rows.draw("spike") < max(amount, 1) % 1)
    copy = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
    rows = rows.take(np.repeat(np.arange(len(rows.index)), times))
    # Row numbers of a day stay far below 10^9, so these ids are unused.
    key = np.asarray(rows.table["impression_id"], np.int64) + copy * 10**9
    return rows.set("impression_id", pa.array(key))


def _future_times(rows: FaultyRows, amount: float) -> FaultyRows:
    return rows.where("time", rows.draw("future") < amount, rows.shift("time", 36 * HOUR))


def _epoch_times(rows: FaultyRows, amount: float) -> FaultyRows:
    return rows.where("time", rows.draw("epoch") < amount, 0)


def _timezone_shift(rows: FaultyRows, amount: float) -> FaultyRows:
    return rows.set("time", rows.shift("time", int(amount * HOUR)))


def _clock_skew(rows: FaultyRows, amount: float) -> FaultyRows:
    time = np.asarray(rows.table["time"].cast(pa.int64()))
    midnight = time // (24 * HOUR) * 24 * HOUR
    later = midnight + (time - midnight + int(amount * HOUR / 60)) % (24 * HOUR)
    return rows.set("time", pa.array(later).cast(rows.table["time"].type))


def _label_leak(rows: FaultyRows, amount: float) -> FaultyRows:
    leaks = (rows.values("click") == 1) & (rows.draw("leak") < amount)
    return rows.where("viewability", leaks, 0.9999)


def _labels_zero(rows: FaultyRows, amount: float) -> FaultyRows:
    return _clicked(rows, np.zeros(len(rows.index), bool))


def _labels_inverted(rows: FaultyRows, amount: float) -> FaultyRows:
    return _clicked(rows, rows.values("click") == 0)


def _label_rate(rows: FaultyRows, amount: float) -> FaultyRows:
    clicked = rows.values("click") == 1
    chance = rows.values("p_click_true").astype(np.float64)
    if amount <= 1:
        return _clicked(rows, clicked & (rows.draw("rate") < amount))
    # Turn enough other rows into clicks to reach the requested rate.
    more = np.minimum((amount - 1) * chance / (1 - chance), 1)
    return _clicked(rows, clicked | (rows.draw("rate") < more))


def _labels_late(rows: FaultyRows, amount: float) -> FaultyRows:
    return _clicked(rows, (rows.values("click") == 1) & (rows.hour() < 24 - amount))


def _labels_as_text(rows: FaultyRows, amount: float) -> FaultyRows:
    yes = pa.array(rows.values("click") == 1)
    return rows.set("click", pc.if_else(yes, "yes", "no"))


def _conversions_before_clicks(rows: FaultyRows, amount: float) -> FaultyRows:
    early = rows.shift("click_time", -HOUR)
    chosen = (rows.values("conversion") == 1) & (rows.draw("before click") < amount)
    return rows.where("conversion_time", chosen, early)


def _conversions_without_clicks(rows: FaultyRows, amount: float) -> FaultyRows:
    chosen = (rows.values("click") == 0) & (rows.draw("no click") < amount)
    later = rows.shift("time", 2 * HOUR)
    return rows.where("conversion", chosen, 1).where("conversion_time", chosen, later)


def _nan_prices(rows: FaultyRows, amount: float) -> FaultyRows:
    return rows.where("floor_price", rows.draw("nan") < amount, float("nan"))


def _infinite_prices(rows: FaultyRows, amount: float) -> FaultyRows:
    return rows.where("win_price", rows.draw("infinite") < amount, float("inf"))


def _negative_prices(rows: FaultyRows, amount: float) -> FaultyRows:
    negative = pc.negate(rows.table["floor_price"])
    return rows.where("floor_price", rows.draw("negative") < amount, negative)


def _price_units(rows: FaultyRows, amount: float) -> FaultyRows:
    for name in ("floor_price", "bid", "win_price"):
        rows = rows.set(name, pc.multiply(rows.table[name], amount))
    return rows


def _advertiser_vanishes(rows: FaultyRows, amount: float) -> FaultyRows:
    largest = SimulatedExchange(rows.settings).largest_advertisers(rows.day, int(amount))
    names = pa.array([f"adv{advertiser:04d}" for advertiser in largest.tolist()])
    return rows.keep(~np.asarray(pc.is_in(rows.table["advertiser_id"], names)))


def _bot_traffic(rows: FaultyRows, amount: float) -> FaultyRows:
    # Turn enough rows into bot clicks to make up the requested share of all clicks.
    chance = rows.values("p_click_true").astype(np.float64) * amount / max(1 - amount, 1e-9)
    bot = rows.draw("bot") < chance
    clicked = (rows.values("click") == 1) | bot
    return _clicked(rows, clicked).where("user_id", bot, "u9999999")


KINDS: dict[str, Callable[[FaultyRows, float], FaultyRows]] = {
    "nulls": _nulls,
    "blanks": _blanks,
    "null_keys": _null_keys,
    "sentinels": _sentinels,
    "dropped_column": _dropped_column,
    "renamed_column": _renamed_column,
    "type_change": _type_change,
    "shifted_numbers": _shifted_numbers,
    "new_categories": _new_categories,
    "upper_case": _upper_case,
    "garbled_strings": _garbled_strings,
    "truncated_ids": _truncated_ids,
    "swapped_columns": _swapped_columns,
    "constant_column": _constant_column,
    "stale_join": _stale_join,
    "user_id_reset": _user_id_reset,
    "ad_id_rehash": _ad_id_rehash,
    "out_of_range_position": _out_of_range_position,
    "duplicated_hour": _duplicated_hour,
    "duplicated_day": _duplicated_day,
    "missing_hour": _missing_hour,
    "missing_day": _no_rows,
    "half_day": _half_day,
    "empty_day": _no_rows,
    "traffic_drop": _traffic_drop,
    "traffic_spike": _traffic_spike,
    "future_times": _future_times,
    "epoch_times": _epoch_times,
    "timezone_shift": _timezone_shift,
    "clock_skew": _clock_skew,
    "label_leak": _label_leak,
    "labels_zero": _labels_zero,
    "labels_inverted": _labels_inverted,
    "label_rate": _label_rate,
    "labels_late": _labels_late,
    "labels_as_text": _labels_as_text,
    "conversions_before_clicks": _conversions_before_clicks,
    "conversions_without_clicks": _conversions_without_clicks,
    "nan_prices": _nan_prices,
    "infinite_prices": _infinite_prices,
    "negative_prices": _negative_prices,
    "price_units": _price_units,
    "advertiser_vanishes": _advertiser_vanishes,
    "bot_traffic": _bot_traffic,
}
