"""Formats differences for readers, the same in summaries of stages, tables and pages."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any


def signed(value: float | Decimal, form: str = ".4f") -> str:
    """Format a number with its sign: `+0.0012`, `−0.0012`.

    Args:
        value: The number.
        form: Format specification after the sign, such as `,.2f` or `.0%`.
    """
    return format(value, f"+{form}").replace("-", "−")


def with_interval(measured: Mapping[str, Any], form: str = ".4f") -> str:
    """Format a difference with its interval, if it has one: `+0.0012 [−0.0003, +0.0027]`.

    Args:
        measured: `value`, and `low` and `high`, which may be None.
        form: See `signed`.
    """
    value, low, high = measured["value"], measured.get("low"), measured.get("high")
    if low is None or high is None:
        return signed(value, form)
    return f"{signed(value, form)} [{signed(low, form)}, {signed(high, form)}]"
