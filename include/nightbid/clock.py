"""Signs of life, of clocks that differ and are put right."""

from __future__ import annotations

import datetime as dt

SKEW_SECONDS = 900
"""By as much the clocks of two machines may differ. A sign that lies further in the future was
left before a clock was put back: nobody knows how old it is."""


def is_fresh(sign: dt.datetime, seconds: float, now: dt.datetime | None = None) -> bool:
    """Whether a sign of life is younger than some seconds.

    Args:
        sign: When it was left.
        seconds: How long it counts.
        now: The moment; default: now.
    """
    age = ((now or dt.datetime.now(dt.UTC)) - sign).total_seconds()
    return -SKEW_SECONDS <= age < seconds
