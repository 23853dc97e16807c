"""How a process ended, in words."""

from __future__ import annotations

import signal
from pathlib import Path


def how_it_ended(code: int, log: Path | None = None) -> str:
    """Say how a process ended, for example `ended with code 1: ValueError: …`.

    The log of a killed process does not tell why it ended, so it is not quoted.

    Args:
        code: Return code as in `subprocess`: negative if a signal ended the process.
        log: File of the process's output, whose last line is quoted.
    """
    if code >= 0:
        return f"ended with code {code}" + (f": {last_line(log)}" if log else "")
    if -code == signal.SIGKILL:
        return "was killed (SIGKILL), often because memory ran out"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}"


def last_line(log: Path) -> str:
    """Get the last line of a process's output, at most 300 characters."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    lines = text.strip().splitlines()
    return lines[-1].strip()[:300] if lines else "it printed nothing"
