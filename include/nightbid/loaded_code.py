"""Detects files of this package that have changed since the process started.

A process keeps the code that it has imported, while the key of an output is made of the files.
After an edit the two differ, and an output would get the key of code that did not compute it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent


def _files(folder: str) -> Iterator[tuple[str, tuple[int, int]]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name != "__pycache__":
                    yield from _files(entry.path)
            elif entry.name.endswith(".py"):
                yield entry.path, _state(entry.stat())


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_mtime_ns, status.st_size


_at_start = dict(_files(str(PACKAGE)))
"""File → modification time and size when this module was imported."""


def has_changed(path: Path) -> bool:
    """Return whether a file of the package has changed or appeared since the process started."""
    return _at_start.get(str(path)) != _state(path.stat())


def is_any_changed() -> bool:
    """Return whether a file of the package has changed, appeared or gone."""
    return dict(_files(str(PACKAGE))) != _at_start


def forget(*packages: str) -> None:
    """Let the next imports load this package and others from their files again.

    Args:
        packages: Names of the others.
    """
    roots = {__name__.partition(".")[0], *packages}
    for name in [name for name in sys.modules if name.partition(".")[0] in roots]:
        del sys.modules[name]
