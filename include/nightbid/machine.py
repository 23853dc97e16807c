"""What this machine has, and how Python uses it."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GB = 1e9
SHARE = 0.5
"""Of the memory, what rows may take where no setting says it."""
LIMIT_FILES = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Limit of a container, by version of cgroups."""


def memory_bytes() -> int:
    """Memory of this machine, or of the container if it may use less."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in LIMIT_FILES:
        try:
            found = min(found, int(path.read_text()))
        except (OSError, ValueError):  # no such file; "max": no limit
            continue
    return found


def memory_limit(asked_gb: float | None, processes: int = 1) -> float:
    """Gigabytes that rows may take in this process.

    Args:
        asked_gb: What a setting says; None: half of the machine's memory.
        processes: That share the machine.
    """
    return SHARE * memory_bytes() / GB / processes if asked_gb is None else asked_gb


@contextmanager
def fewer_collections() -> Iterator[None]:
    """Let Python look for garbage after 20,000 new objects, instead of 700, until the end.

    TensorFlow and Great Expectations make millions of objects that stay. Looking through them again
    and again took a tenth of the CPU seconds of a small night.
    """
    before = gc.get_threshold()
    gc.set_threshold(20_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
