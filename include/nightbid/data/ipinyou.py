"""Reads iPinYou's raw logs of seasons 2 and 3: impressions joined with the click logs.

Files are as published: `imp.20130606.txt.bz2` and `clk.20130606.txt.bz2`, 24 tab-separated columns
without a header. Prices are fen (0.01 yuan) per thousand impressions. Times are China Standard
Time, as are the days of the files, and are not converted. Added columns: ``impression_id`` (the
bid's id), ``time``, ``user_id`` (the user's id, or the bid's if there is none) and ``click``. A
click without an impression on its day becomes a row that is set aside and counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from nightbid.data.delimited import FilePart
from nightbid.errors import MissingDataError
from nightbid.schema import REASON, TEXT

NAMES = (
    "bid_id", "timestamp", "log_type", "ipinyou_id", "user_agent", "ip", "region", "city",
    "ad_exchange", "domain", "url", "anonymous_url_id", "slot_id", "slot_width", "slot_height",
    "slot_visibility", "slot_format", "slot_floor_price", "creative_id", "bidding_price",
    "paying_price", "landing_page", "advertiser_id", "user_tags",
)  # fmt: skip
PRICES = ("slot_floor_price", "bidding_price", "paying_price")
MADE = ("impression_id", "time", "user_id", "click")
ORPHAN = "a click without an impression"


def impression_files(files: dict[date, list[Path]]) -> dict[date, list[FilePart]]:
    """Select the impression logs of each day."""
    impressions = {day: _of_kind(paths, "imp") for day, paths in files.items()}
    return {day: [FilePart(path) for path in paths] for day, paths in impressions.items() if paths}


def click_files(files: dict[date, list[Path]], day: date) -> list[FilePart]:
    """Return the click logs of a day.

    Raises:
        MissingDataError: There is none; without this error the day would seem to have no clicks.
    """
    paths = _of_kind(files.get(day, []), "clk")
    if not paths:
        raise MissingDataError(
            f"the day {day} has impressions and no click log",
            where="layout ipinyou",
            hint=f"put clk.{day:%Y%m%d}.txt.bz2 next to imp.{day:%Y%m%d}.txt.bz2",
        )
    return [FilePart(path) for path in paths]


def with_clicks(table: pa.Table, clicked: pa.Array) -> pa.Table:
    """Add the columns that the impression log lacks.

    Args:
        table: Rows of the impression log.
        clicked: Ids of the bids that were clicked on the same day.
    """
    bid, user = table["bid_id"], table["ipinyou_id"]
    named = pc.invert(pc.is_in(user, pa.array(["", "null"], user.type)))
    named = pc.and_(pc.fill_null(named, False), pc.is_valid(user))
    click = pc.and_(pc.is_in(bid, value_set=clicked), pc.is_valid(bid))
    return (
        table.append_column("impression_id", bid)
        .append_column("time", table["timestamp"])
        .append_column("user_id", pc.if_else(named, user, bid))
        .append_column("click", click.cast(pa.int8()))
    )


def orphans(clicks: pa.Table, seen: pa.Array) -> pa.Table:
    """Return clicks without an impression on their day, as rows to set aside.

    Args:
        clicks: Rows of the click log, with the columns that `with_clicks` adds.
        seen: Ids of the day's impressions.
    """
    alone = pc.invert(pc.is_in(clicks["bid_id"], value_set=seen))
    rows = clicks.filter(alone)
    reason = pa.array([ORPHAN] * len(rows), pa.string())
    for name, values in ((REASON, reason), (TEXT, rows["bid_id"].cast(pa.string()))):
        if name in rows.column_names:
            rows = rows.set_column(rows.column_names.index(name), name, values)
    return rows


def _of_kind(paths: Iterable[Path], kind: str) -> list[Path]:
    return [path for path in paths if path.name.startswith(f"{kind}.")]
