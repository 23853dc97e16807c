"""The settings of a run, and which version of them counts when several processes run it.

Each change of a run's settings takes the next number below `heads/`, exclusively. A process that
stalled while another one resumed its run therefore cannot restore its own settings, and what it
records late sorts before records under the newer settings. `run.json` is a copy of the newest head.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

from pydantic import Field
from upath import UPath

from nightbid.errors import ConcurrentUpdateError
from nightbid.night.sealed import Sealed, seal, unseal
from nightbid.partitions import Partition
from nightbid.storage.files import read_all, write_newest, write_once

GONE = "move this run's folder away and run its night again"
OF_THE_PROCESS = {"started", "number", "revision"}


class RunHead(Sealed):
    """Settings of a run; written when it starts."""

    pipeline: str
    run_id: str
    date: Partition
    overrides: tuple[str, ...] = ()
    trigger: str = "shell"
    sweep: str = ""
    """Sweep that the run is a trial of; empty: none. Trials are not listed as nights."""
    until: str = ""
    """Last stage to run; empty: all stages run."""
    started: dt.datetime
    spec: dict[str, object]
    number: int = 0
    """Number of the pipeline's runs when it started, including itself; 0 in older records.

    It orders runs without relying on a clock."""
    code: Mapping[str, str] = Field(default_factory=dict)
    """Stage → digest of its code and libraries, see `nightbid.night.pin`."""
    revision: int = 0
    """Number of times that the run's settings were written, from 1; 0 in older records."""


def newest_head(folder: UPath) -> RunHead | None:
    """Return the newest head of a run; None if the run was never started.

    Args:
        folder: Folder of the run's records.

    Raises:
        CorruptDataError: The head is damaged.
    """
    path = folder / "run.json"
    head = unseal(RunHead, path.read_bytes(), path, GONE) if path.exists() else None
    claims = read_all(folder / "heads", ".json")
    newest = max(claims, default="")
    # Newer than its copy if a process was killed between the two writes.
    if newest and (head is None or int(newest.removesuffix(".json")) > head.revision):
        return unseal(RunHead, claims[newest], folder / "heads" / newest, GONE)
    return head


def write_head(folder: UPath, head: RunHead, after: RunHead | None) -> RunHead:
    """Write the settings of a run, unless they are unchanged.

    Args:
        folder: Folder of the run's records.
        head: The settings to write.
        after: The head that this one replaces; None for the first.

    Returns:
        The head that is in effect.

    Raises:
        ConcurrentUpdateError: Another process has written different settings since `after`.
    """
    result = head.model_copy(update={"revision": after.revision + 1 if after else 1})
    if after is not None and _asks_the_same(head, after):
        result = after
    else:
        try:
            write_once(folder / "heads" / f"{result.revision:06d}.json", seal(result))
        except FileExistsError:
            other = newest_head(folder)
            if other is None or not _asks_the_same(result, other):
                raise ConcurrentUpdateError(
                    "another process took over this run with other settings",
                    where=head.run_id,
                    hint="wait until it has ended, or use another --run-id",
                ) from None
            result = other
    if not (folder / "run.json").exists() or _copied(folder) < result.revision:
        # The process that took the number may not have copied it yet, or may have been killed.
        write_newest(folder / "run.json", lambda: seal(newest_head(folder) or result))
    return result


def _copied(folder: UPath) -> int:
    path = folder / "run.json"
    return unseal(RunHead, path.read_bytes(), path, GONE).revision


def _asks_the_same(one: RunHead, other: RunHead) -> bool:
    return one.model_dump(mode="json", exclude=OF_THE_PROCESS) == other.model_dump(
        mode="json", exclude=OF_THE_PROCESS
    )
