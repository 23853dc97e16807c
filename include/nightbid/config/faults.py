"""Faults that the simulator can inject: `kind@YYYY-MM-DD` or `kind@YYYY-MM-DD:amount`."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from datetime import date

FAULTS: dict[str, tuple[float, str]] = {
    "nulls": (0.3, "share of rows without advertiser_id"),
    "blanks": (0.3, "share of rows whose region is the empty string"),
    "null_keys": (0.05, "share of rows without impression_id, which are quarantined"),
    "sentinels": (0.2, "share of rows whose account_age_days is -1 for unknown"),
    "dropped_column": (1, "column site_id is missing"),
    "renamed_column": (1, "column device_type is named device"),
    "type_change": (1, "account_age_days is a string"),
    "shifted_numbers": (3, "factor on seconds_since_last_ad"),
    "new_categories": (0.3, "share of rows whose connection is 6g"),
    "upper_case": (1, "creative_format is upper case"),
    "garbled_strings": (0.5, "share of rows whose page_category was decoded wrongly"),
    "truncated_ids": (2, "letters that remain of site_id"),
    "swapped_columns": (1, "device_type and os are swapped"),
    "constant_column": (1, "device_type is phone everywhere"),
    "stale_join": (1, "share of rows with another user's age_band, gender, region and interests"),
    "user_id_reset": (1, "every user has a new id"),
    "ad_id_rehash": (1, "every ad has a new id"),
    "out_of_range_position": (0.05, "share of rows at position 99"),
    "duplicated_hour": (14, "rows of this hour appear twice"),
    "duplicated_day": (1, "every row appears twice"),
    "missing_hour": (14, "rows of this hour are missing"),
    "missing_day": (1, "the day is missing"),
    "half_day": (12, "the day ends at this hour"),
    "empty_day": (1, "the day exists but has no rows"),
    "traffic_drop": (0.7, "share of rows that is lost"),
    "traffic_spike": (3, "factor on the rows, each with its own id"),
    "future_times": (0.05, "share of rows 36 hours ahead"),
    "epoch_times": (0.05, "share of rows dated 1970"),
    "timezone_shift": (8, "hours added to every time"),
    "clock_skew": (90, "minutes added to every time, within the day"),
    "label_leak": (1, "share of clicks that viewability reveals"),
    "labels_zero": (1, "no user clicks or converts"),
    "labels_inverted": (1, "labels are inverted"),
    "label_rate": (2, "factor on the click rate"),
    "labels_late": (6, "clicks of the last hours of the day, this many, have not arrived"),
    "labels_as_text": (1, "click is yes or no"),
    "conversions_before_clicks": (1, "share of conversions an hour before their click"),
    "conversions_without_clicks": (0.02, "share of rows with a conversion and no click"),
    "nan_prices": (0.1, "share of rows whose floor_price is NaN"),
    "infinite_prices": (0.05, "share of rows whose win_price is infinite"),
    "negative_prices": (0.1, "share of rows whose floor_price is negative"),
    "price_units": (100, "factor on every price: cents for dollars"),
    "advertiser_vanishes": (1, "number of advertisers, largest first, that disappear"),
    "bot_traffic": (0.3, "share of the clicks that come from one user"),
}
"""Kind → (default `amount`, meaning of the amount)."""


@dataclass(frozen=True)
class Fault:
    """One fault to inject into one day."""

    kind: str
    day: date
    amount: float

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read `kind@YYYY-MM-DD[:amount]`.

        Raises:
            ValueError: The kind is unknown, or the day or amount cannot be parsed.
        """
        kind, at, rest = text.partition("@")
        if kind not in FAULTS:
            close = difflib.get_close_matches(kind, FAULTS, n=1, cutoff=0.4)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(FAULTS)}"
            raise ValueError(f"unknown fault {kind!r}, {hint}")
        day, colon, number = rest.partition(":")
        try:
            amount = float(number) if colon else FAULTS[kind][0]
            fault = cls(kind, date.fromisoformat(day), amount)
        except ValueError:
            fault = None
        if fault is None or not at or not math.isfinite(fault.amount):
            raise ValueError(f"cannot read the fault {text!r}: write kind@YYYY-MM-DD[:amount]")
        return fault
