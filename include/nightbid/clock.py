"""Signs of life, of clocks that differ and are put right."""

from __future__ import annotations

import datetime as dt
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

BOOT = Path("/proc/sys/kernel/random/boot_id")

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


def moment() -> dict[str, Any]:
    """The boot of this machine and the seconds since it, whatever its clock says."""
    boot = ""
    with suppress(OSError):
        boot = BOOT.read_text().strip()
    return {"boot": boot, "seconds": time.clock_gettime(time.CLOCK_BOOTTIME)}


def seconds_since(before: object) -> float | None:
    """Seconds since a moment of this machine; None of another machine, or before its last start.

    Args:
        before: What `moment` gave.
    """
    now = moment()
    if not isinstance(before, dict) or not now["boot"] or before.get("boot") != now["boot"]:
        return None
    seconds = before.get("seconds")
    return now["seconds"] - seconds if isinstance(seconds, float) else None
