"""Formats of figures for readers, the same in the terminal and in HTML."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

from nightbid import counts, differences
from nightbid.cost.money import Money
from nightbid.evaluation.verdict import against as against

DASH = "–"


def number(value: Any, digits: int = 4) -> str:
    """Format a number: `0.6812`, or a dash if it is undefined."""
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return DASH
    return f"{value:,.{digits}f}"


def count(value: Any) -> str:
    """Format a count: `1,234,567`."""
    return f"{value:,}" if isinstance(value, int) else DASH


def counted(value: Any, noun: str, plural: str = "") -> str:
    """Format a count with its noun: `1 row`, `1,234 rows`, or a dash for the number if unknown."""
    if isinstance(value, int):
        return counts.counted(value, noun, plural)
    return f"{DASH} {plural or f'{noun}s'}"


def signed(value: Any, digits: int = 4) -> str:
    """Format a signed number: `+0.0012`, or a dash if it is undefined."""
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return DASH
    return differences.signed(value, f".{digits}f")


def interval(bounds: Any, digits: int = 4, *, sign: bool = False) -> str:
    """Format an interval: `[0.6701, 0.6912]`, or an empty text if there is none."""
    low, high = (bounds or {}).get("low"), (bounds or {}).get("high")
    if low is None or high is None:
        return ""
    write = signed if sign else number
    return f"[{write(low, digits)}, {write(high, digits)}]"


def money(value: Any, *, currency: bool = True) -> str:
    """Format an amount: `0.0123 USD`, `<0.0001 USD`, `0 USD`, or a dash if there is none."""
    if isinstance(value, Decimal):
        value = Money(value)
    if not isinstance(value, Money):
        return DASH
    small = 0 < value.amount < Decimal("0.00005")
    text = "<0.0001" if small else f"{value.amount:,.4f}" if value.amount else "0"
    return f"{text} {value.currency}" if currency else text


def duration(seconds: float) -> str:
    """Format a duration: `42 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
