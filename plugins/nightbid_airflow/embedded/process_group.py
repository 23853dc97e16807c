"""Terminates all processes of a session."""

from __future__ import annotations

import os
import signal
import time

import psutil

PATIENCE = 12.0
"""Seconds between SIGTERM and SIGKILL."""


def members(session: int) -> list[psutil.Process]:
    """List the living processes of a session, without its leader and the caller."""
    processes = []
    for process in psutil.process_iter():
        try:
            if process.pid in (session, os.getpid()) or os.getsid(process.pid) != session:
                continue
            if process.status() != psutil.STATUS_ZOMBIE:
                processes.append(process)
        except (psutil.Error, ProcessLookupError, PermissionError):
            continue
    return processes


def end(session: int, patience: float = PATIENCE) -> None:
    """Send all members SIGTERM, then kill those that are still running."""
    _signal(members(session), signal.SIGTERM)
    deadline = time.monotonic() + patience
    while members(session) and time.monotonic() < deadline:
        time.sleep(0.2)
    # A process may have forked another one between the listing and the kill.
    while left := members(session):
        _signal(left, signal.SIGKILL)
        time.sleep(0.1)


def _signal(processes: list[psutil.Process], number: int) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.Error:
            continue
