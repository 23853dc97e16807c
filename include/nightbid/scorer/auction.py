"""The auction of a request: candidates with bids are ordered by eCPM and priced.

::

    {"context": {…}, "rows": [{"ad_id": "a17"}, {"ad_id": "a4"}],
     "bids": [1.20, 0.85], "ids": ["a17", "a4"],
     "auction": {"pricing": "gsp", "reserve": 0.05, "ecpm_floor": 0, "quality_floor": 0.001}}

Bids are per click; the quality of a candidate is its probability. See `nightbid.bidding.ranking`
for the rules.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from nightbid.bidding.ranking import rank
from nightbid.counts import counted
from nightbid.errors import CorruptDataError

KEYS = frozenset({"bids", "ids", "auction"})
"""Keys of a request in addition to `rows` and `context`."""
MOST_SLOTS = 100
MOST_NUMBER = 1e300
"""Largest bid, reserve, floor or exposure; its eCPM is still a finite number."""
SURROGATES = re.compile(r"[\ud800-\udfff]")
"""Characters that JSON can contain, but UTF-8 cannot."""
SETTINGS = ("pricing", "reserve", "ecpm_floor", "quality_floor", "slots")
_HINT = 'send one bid per row in "bids"'


def ranked(request: dict[str, Any], quality: npt.NDArray[np.float64]) -> list[dict[str, Any]]:
    """Order the candidates of a request.

    Args:
        request: Request. `bids` holds one number per row. `ids` (all strings or all integers;
            default: row indices) break ties: of equal eCPMs, the smaller id ranks higher. `auction`
            may hold `pricing` (`gsp`, the second price by quality; `vcg`; `first`), `reserve`
            (minimum price per click), `ecpm_floor` (minimum eCPM), `quality_floor` (minimum
            probability) and `slots` (relative click probability of each slot, best first; by
            default every candidate has a slot of 1).
        quality: Probability of each row; float64 [rows].

    Returns:
        One object per filled slot, best first: `id`, `row`, `probability`, `bid`, `ecpm`, and
        `price` per click. Candidates below a floor or the reserve are omitted.

    Raises:
        DataError: Bids, ids or settings are invalid.
    """
    bids = _numbers(request.get("bids"), "bids", len(quality))
    ids = _ids(request.get("ids"), len(quality))
    settings = request.get("auction", {})
    if not isinstance(settings, dict) or (unknown := sorted(set(settings) - set(SETTINGS))):
        fault = "not an object" if not isinstance(settings, dict) else f"unknown key {unknown[0]!r}"
        raise CorruptDataError(fault, where="auction", hint=f"use {', '.join(SETTINGS)}")
    pricing = settings.get("pricing", "gsp")
    slots = settings.get("slots")
    if slots is None and pricing == "vcg":
        raise CorruptDataError("vcg without slots", where="auction", hint='send "slots"')
    if slots is not None and not (isinstance(slots, list) and 1 <= len(slots) <= MOST_SLOTS):
        raise CorruptDataError(
            "slots must be a list", where="auction", hint=f"send 1 to {MOST_SLOTS} numbers"
        )
    if not len(quality):
        return []
    exposure = np.ones(len(quality)) if slots is None else _numbers(slots, "slots", len(slots))
    floor = _number(settings, "quality_floor")
    if not 0 <= floor <= 1:
        raise CorruptDataError(
            f"{floor:g} is not a probability", where="auction.quality_floor", hint="send 0 to 1"
        )
    # `rank` breaks ties by position, so sort the candidates by id.
    by_id = np.array(sorted(range(len(ids)), key=ids.__getitem__), np.int64)
    ranking = rank(
        np.where(quality >= floor, bids, 0.0)[by_id],
        quality[by_id],
        exposure=exposure.tolist(),
        reserve=_number(settings, "reserve"),
        ecpm_floor=_number(settings, "ecpm_floor"),
        pricing=pricing,
    )
    rows = by_id[ranking.order[: ranking.filled]]
    return [
        {
            "id": ids[row],
            "row": int(row),
            "probability": float(quality[row]),
            "bid": float(bids[row]),
            "ecpm": float(ranking.ecpm[slot]),
            "price": float(ranking.price[slot]),
        }
        for slot, row in enumerate(rows)
    ]


def _numbers(values: Any, name: str, size: int) -> npt.NDArray[np.float64]:
    if not isinstance(values, list) or len(values) != size:
        count = counted(len(values), "value") if isinstance(values, list) else "not a list"
        raise CorruptDataError(f"{count} for {counted(size, 'row')}", where=name, hint=_HINT)
    return np.array([_finite(value, name, at) for at, value in enumerate(values)], np.float64)


def _number(settings: dict[str, Any], name: str) -> float:
    return _finite(settings.get(name, 0.0), f"auction.{name}")


def _finite(value: Any, name: str, at: int | None = None) -> float:
    # Python's parser also reads NaN, 1e999 and integers of any size; see `rows.load`.
    if type(value) in (int, float) and -MOST_NUMBER <= value <= MOST_NUMBER:
        return float(value)
    fault = "not a number" if type(value) not in (int, float) else "not a finite number"
    raise CorruptDataError(
        f"{value!r:.40} is {fault}", where=name if at is None else f"{name}[{at}]"
    )


def _ids(values: Any, size: int) -> list[Any]:
    if values is None:
        return list(range(size))
    if not isinstance(values, list) or len(values) != size:
        raise CorruptDataError(
            f"not {counted(size, 'id')}", where="ids", hint="send one per row, or none"
        )
    kinds = set(map(type, values))
    if kinds == {str, int}:
        raise CorruptDataError(
            "ids mix strings and integers", where="ids", hint="send only strings, or only integers"
        )
    for at, value in enumerate(values):
        if not _is_id(value):
            raise CorruptDataError(
                f"{value!a:.40} is neither a text nor an integer of 64 bits",
                where=f"ids[{at}]",
                hint="send only strings, or only integers",
            )
    return values


def _is_id(value: Any) -> bool:
    """Return whether the answer can contain a value as an id."""
    if type(value) is int:
        return -(1 << 63) <= value < 1 << 64
    return type(value) is str and (value.isascii() or not SURROGATES.search(value))
