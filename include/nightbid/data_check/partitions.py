"""Detects how a folder of logs is partitioned from the names of its folders and files."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

from nightbid.config.folder_source import FolderSource
from nightbid.data.source import open_source
from nightbid.errors import DataError
from nightbid.partitions import STEPS, WEEKDAYS, Unit

LEAST = 3
"""Minimum number of partitions to infer their unit from the distance between them."""


def weeks_of(block: dict[str, Any], known: Sequence[date], cache: Path) -> dict[str, Any]:
    """Return the source settings of a folder of weeks; empty if its partitions are days.

    Args:
        block: The `source` block.
        known: Days of the folder, oldest first.
        cache: Folder for downloads of sources.
    """
    if not known:
        weeks = {"partition": "week"}
        return weeks if _partitions(block, weeks, cache) else {}
    apart = {(later - day) % STEPS["week"] for day, later in pairwise(known)}
    if len(known) < LEAST or any(apart):
        return {}
    begins = WEEKDAYS[known[0].weekday()]
    return {"partition": "week", **({"week_begins": begins} if begins != WEEKDAYS[0] else {})}


def has_hours(block: dict[str, Any], cache: Path) -> bool:
    """Whether every file of a folder states its hour."""
    return bool(_partitions(block, {"partition": "hour"}, cache))


def unit_of(block: dict[str, Any]) -> Unit:
    """Unit of the partitions according to a `source` block."""
    unit: Unit = block.get("partition", "day")
    return unit


def _partitions(block: dict[str, Any], more: dict[str, str], cache: Path) -> Sequence[date]:
    if "folder" not in block or block["kind"] == "kuairand" or block.get("day_column"):
        return ()
    try:
        source = FolderSource.model_validate({**block, **more})
        return open_source(source, cache).days() or ()
    except (DataError, ValueError):
        return ()
