"""Memory of this machine, and settings of Python's garbage collector."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GB = 1e9
SHARE = 0.5
"""Default share of the memory that rows may take."""
LIMIT_FILES = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Files with the memory limit of a container, by version of cgroups."""


def memory_bytes() -> int:
    """Get the memory of this machine in bytes, or the limit of the container if it is lower."""
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in LIMIT_FILES:
        try:
            limit = min(limit, int(path.read_text()))
        except (OSError, ValueError):  # no such file; "max": no limit
            continue
    return limit


def memory_limit(asked_gb: float | None, processes: int = 1) -> float:
    """Compute the gigabytes of memory that rows may take in this process.

    Args:
        asked_gb: Value of the setting; None: half of the machine's memory.
        processes: Number of processes that share the machine.
    """
    return SHARE * memory_bytes() / GB / processes if asked_gb is None else asked_gb


@contextmanager
def fewer_collections() -> Iterator[None]:
    """Collect garbage after 20,000 new objects, instead of 700, within the context.

    TensorFlow and Great Expectations create millions of permanent objects. Traversing them at each
    collection took a tenth of the CPU time of a small night.
    """
    before = gc.get_threshold()
    gc.set_threshold(20_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
