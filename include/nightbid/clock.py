"""Ages of heartbeats, on machines whose clocks differ or are corrected."""

from __future__ import annotations

import datetime as dt
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

BOOT = Path("/proc/sys/kernel/random/boot_id")

SKEW_SECONDS = 900
"""Maximum difference between the clocks of two machines, in seconds. A heartbeat further in the
future was written before a clock was set back, so its age is unknown."""


def is_fresh(sign: dt.datetime, seconds: float, now: dt.datetime | None = None) -> bool:
    """Whether a heartbeat is recent.

    Args:
        sign: Time of the heartbeat.
        seconds: Maximum age of a recent heartbeat, in seconds.
        now: Current time; None: read the clock.
    """
    age = ((now or dt.datetime.now(dt.UTC)) - sign).total_seconds()
    return -SKEW_SECONDS <= age < seconds


def heartbeat() -> str:
    """Write a heartbeat of now: its time, and the moment of this machine."""
    return json.dumps({"at": dt.datetime.now(dt.UTC).isoformat(), "moment": moment()})


def time_of(beat: str) -> dt.datetime:
    """Read the time of a heartbeat; version 0.1 wrote the time alone.

    Raises:
        ValueError, KeyError, TypeError: The text is no heartbeat.
    """
    return dt.datetime.fromisoformat(json.loads(beat)["at"] if beat.startswith("{") else beat)


def is_beating(beat: str, seconds: float) -> bool:
    """Whether a heartbeat is recent; on the same machine, whatever its clock says.

    Args:
        beat: Return value of `heartbeat`.
        seconds: Maximum age of a recent heartbeat, in seconds.

    Raises:
        ValueError, KeyError, TypeError: The text is no heartbeat.
    """
    # Containers of one machine have names of their own, but the same time since its boot.
    if beat.startswith("{") and (age := seconds_since(json.loads(beat).get("moment"))) is not None:
        return 0 <= age < seconds
    return is_fresh(time_of(beat), seconds)


def start_of(process: int) -> str:
    """Identify a living process of this machine, whatever its clock says.

    The time since 1970 at which a process started changes when the clock is set, since only the
    time since the machine's boot is known.

    Args:
        process: Its id, which another process may have had before.

    Returns:
        Boot and time of its start; empty if there is no such process, or it has ended.
    """
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else f"{BOOT.read_text().strip()} {fields[19]}"
    except (OSError, IndexError):
        return ""


def moment() -> dict[str, Any]:
    """Get the id of this machine's boot and the seconds since then, independent of its clock."""
    boot = ""
    with suppress(OSError):
        boot = BOOT.read_text().strip()
    return {"boot": boot, "seconds": time.clock_gettime(time.CLOCK_BOOTTIME)}


def seconds_since(before: object) -> float | None:
    """Get the seconds since an earlier moment of this machine.

    Args:
        before: Return value of `moment`.

    Returns:
        Seconds; None if the moment is of another machine or before its last boot.
    """
    now = moment()
    if not isinstance(before, dict) or not now["boot"] or before.get("boot") != now["boot"]:
        return None
    seconds = before.get("seconds")
    return now["seconds"] - seconds if isinstance(seconds, float) else None
