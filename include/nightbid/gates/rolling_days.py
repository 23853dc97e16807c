"""Joins hourly logs into days for the raw gate: 24 hours each, counted back from the newest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import date, timedelta
from functools import reduce

from nightbid.gates.day_profiles import OUTSIDE, DayProfile, DayProfiles
from nightbid.partitions import DAY_HOURS, STEPS
from nightbid.profile.profile import Profile


def in_rolling_days(hours: DayProfiles) -> DayProfiles:
    """Join the hours of a window, and those of earlier nights, into days."""
    joined = rolling_days(hours.all, max(hours.expected))
    tonight = {hour.name for hour in hours.window}
    return DayProfiles(
        [day for day in joined if tonight & set(day.partitions)],
        [day for day in joined if not tonight & set(day.partitions)],
        hours.expected,
        hours.missing,
    )


def rolling_days(hours: Iterable[DayProfile], newest: date) -> list[DayProfile]:
    """Join hours into days that end with the newest hour, and with the same hour on days before.

    Each day has every hour of the clock once, so it can be compared with other days: volume, clock,
    label rate by hour. Hours that do not make a whole day are left out.

    Args:
        hours: All known hours.
        newest: Newest hour of the window.

    Returns:
        The days, oldest first; their `date` is their last hour.
    """
    known = {hour.date: hour for hour in hours}
    days: list[DayProfile] = []
    last = newest
    while known and last >= min(known):
        names = [last - back * STEPS["hour"] for back in range(DAY_HOURS - 1, -1, -1)]
        parts = [known[name] for name in names if name in known]
        # An hour without logs is missing in its day; before the first hour, nothing is known.
        if parts and names[0] >= min(known):
            days.append(_joined(last, parts))
        last -= timedelta(days=1)
    return days[::-1]


def _joined(last: date, parts: list[DayProfile]) -> DayProfile:
    figures: Counter[str] = Counter()
    for hour in parts:
        figures.update(hour.figures)
    figures[OUTSIDE] = sum(hour.outside for hour in parts)
    return DayProfile(
        last,
        reduce(Profile.merge, (hour.profile for hour in parts)),
        dict(figures),
        unit="hour",
        partitions=tuple(hour.name for hour in parts),
    )
