"""Detects the format of times that are not ISO 8601, for `source.time_format`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime

DAYS = (
    "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%m-%Y", "%m-%d-%Y", "%Y/%m/%d", "%Y.%m.%d",
    "%d/%m/%y", "%m/%d/%y", "%d.%m.%y", "%d-%b-%Y", "%d %b %Y", "%b %d, %Y", "%b %d %Y",
    "%d/%b/%Y", "%d-%b-%y", "%d %B %Y", "%B %d, %Y", "%a, %d %b %Y", "%Y-%m-%d",
)  # fmt: skip
CLOCKS = (
    " %H:%M:%S", " %H:%M", " %H:%M:%S.%f", " %H:%M:%S,%f", " %I:%M:%S %p", " %I:%M %p",
    " %I:%M:%S.%f %p", ", %H:%M:%S", ":%H:%M:%S %z", ":%H:%M:%S", " %H:%M:%S %z", " %H.%M.%S",
    "T%H:%M:%S", " %H-%M-%S", "",
)  # fmt: skip
FEWEST = 3
"""Minimum number of values to detect a format."""


def formats_of(values: Sequence[str]) -> list[str]:
    """Formats in which every value is a time; several if day and month are ambiguous."""
    texts = [value.strip() for value in values if value.strip()]
    if len(texts) < FEWEST or not any(mark in texts[0] for mark in "/.- "):
        return []
    formats = [day + clock for day in DAYS for clock in CLOCKS if is_time(texts[0], day + clock)]
    return [form for form in formats if all(is_time(text, form) for text in texts)]


def is_time(text: str, form: str) -> bool:
    """Return whether a text is a time from 1999 to 2099 in a format."""
    try:
        return 1999 <= datetime.strptime(text, form).year < 2100
    except ValueError:
        return False


def choose(forms: Sequence[str], values: Sequence[str], day: date | None) -> str:
    """Choose the only format in which most values are within a day of their file's day.

    Returns:
        The format; empty if none or more than one remains.
    """
    if len(forms) > 1 and day is not None:
        texts = [value.strip() for value in values if value.strip()]
        near = [
            form for form in forms
            # In another time zone, the day ends hours earlier or later.
            if sum(abs((datetime.strptime(text, form).date() - day).days) <= 1 for text in texts)
            > 0.9 * len(texts)
        ]  # fmt: skip
        forms = near
    return forms[0] if len(forms) == 1 else ""
