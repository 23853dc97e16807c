"""What a run was asked to do, and which of several processes that took it up counts.

Each change of a run's settings takes the next number below `heads/`, exclusively. A process that
stood still while another one took its run up therefore cannot put its own settings back, and what
it records late is sorted before what was recorded under the newer settings. `run.json` is a copy of
the newest head.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

from pydantic import Field
from upath import UPath

from nightbid.errors import ConcurrentUpdateError
from nightbid.night.sealed import Sealed, seal, unseal
from nightbid.partitions import Partition
from nightbid.storage.workspace import read_all, write_newest, write_once

GONE = "move this run's folder away and run its night again"
OF_THE_PROCESS = {"started", "number", "revision"}


class RunHead(Sealed):
    """What a run was asked to do; written when it starts."""

    pipeline: str
    run_id: str
    date: Partition
    overrides: tuple[str, ...] = ()
    trigger: str = "shell"
    sweep: str = ""
    """The sweep that the run is a trial of: such runs are not nights, and not listed as such."""
    until: str = ""
    """The stage that it was to end with; empty: all of them."""
    started: dt.datetime
    spec: dict[str, object]
    number: int = 0
    """How many runs of the pipeline there were when it began, and itself: which run is the newer
    one does not depend on a clock. 0 in records of older versions."""
    code: Mapping[str, str] = Field(default_factory=dict)
    """Stage → digest of the code and libraries it runs with, see `nightbid.night.pin`."""
    revision: int = 0
    """How often the run's settings were written, from 1; 0 in records of older versions."""


def newest_head(folder: UPath) -> RunHead | None:
    """The newest head of a run; None if the run was never begun.

    Args:
        folder: Of the run's records.

    Raises:
        CorruptDataError: It is damaged.
    """
    path = folder / "run.json"
    head = unseal(RunHead, path.read_bytes(), path, GONE) if path.exists() else None
    claims = read_all(folder / "heads", ".json")
    newest = max(claims, default="")
    # Newer than its copy if a process was killed in between.
    if newest and (head is None or int(newest.removesuffix(".json")) > head.revision):
        return unseal(RunHead, claims[newest], folder / "heads" / newest, GONE)
    return head


def write_head(folder: UPath, head: RunHead, after: RunHead | None) -> RunHead:
    """Write what a run is asked from now on, unless it is what it was asked before.

    Args:
        folder: Of the run's records.
        head: What it is asked.
        after: The head that this one follows; None for the first.

    Returns:
        The head that counts.

    Raises:
        ConcurrentUpdateError: Another process has written other settings since `after`.
    """
    mine = head.model_copy(update={"revision": after.revision + 1 if after else 1})
    if after is not None and _asks_the_same(head, after):
        mine = after
    else:
        try:
            write_once(folder / "heads" / f"{mine.revision:06d}.json", seal(mine))
        except FileExistsError:
            other = newest_head(folder)
            if other is None or not _asks_the_same(mine, other):
                raise ConcurrentUpdateError(
                    "another process took this run up, with other settings",
                    where=head.run_id,
                    hint="wait until it has ended, or give another --run-id",
                ) from None
            mine = other
    if not (folder / "run.json").exists() or _copied(folder) < mine.revision:
        # The process that took the number may not have come so far yet, or never will.
        write_newest(folder / "run.json", lambda: seal(newest_head(folder) or mine))
    return mine


def _copied(folder: UPath) -> int:
    path = folder / "run.json"
    return unseal(RunHead, path.read_bytes(), path, GONE).revision


def _asks_the_same(one: RunHead, other: RunHead) -> bool:
    return one.model_dump(mode="json", exclude=OF_THE_PROCESS) == other.model_dump(
        mode="json", exclude=OF_THE_PROCESS
    )
