"""`nightbid champion pause|resume|retire|promote`: decisions of a person about what serves."""

from __future__ import annotations

import getpass
import os

from nightbid import promotion
from nightbid.errors import ConfigError
from nightbid.night.pauses import PromotionPauses
from nightbid.storage.workspace import Workspace


def person(name: str = "") -> str:
    """Get the name of the acting user: the given one, or else the user of this shell."""
    if name:
        return name
    try:
        return getpass.getuser()
    except OSError:  # The user of a container may have no name.
        return f"uid {os.getuid()}"


def promote(workspace: Workspace, pipeline: str, run_id: str, reason: str) -> str:
    """Let the candidate of a run serve; return a line that says what serves now.

    Raises:
        ConfigError: No run or reason is given, or there is no such run.
        PromotionRefused: A gate has not passed the candidate, or promotions are paused.
    """
    if not run_id or not reason.strip():
        raise ConfigError(
            f"a promotion needs {'a reason' if run_id else 'a run'}",
            where="champion",
            hint=f"`nightbid champion promote {pipeline} {run_id or 'RUN'} --reason '…'`",
        )
    entry = promotion.promote_by_hand(workspace, pipeline, run_id, reason, by=person())
    return f"{pipeline}: {entry.run_id} serves (entry #{entry.number})"


def retire(workspace: Workspace, pipeline: str, which: str, reason: str) -> str:
    """Take a champion out of service permanently; return a line that says what serves now.

    Raises:
        ConfigError: No number or reason is given, or there is no such champion.
    """
    if not which.isdecimal():
        raise ConfigError(
            "retire needs a number from the history" + (f", not {which!r}" if which else ""),
            where="champion",
            hint=f"`nightbid champion retire {pipeline} NUMBER --reason '…'`; `nightbid champion"
            f" {pipeline}` shows the numbers",
        )
    number = int(which)
    entry = promotion.retire(workspace, pipeline, number, reason, by=person())
    now = (
        f"{entry.run_id} serves (entry #{entry.number})"
        if entry.serves
        else "nothing serves, and the next night is compared with the baseline"
    )
    return f"{pipeline}: #{number} is retired and is no longer a reference; {now}"


def pause_or_resume(workspace: Workspace, action: str, pipeline: str, reason: str) -> str:
    """Stop or allow the promotions of a pipeline; return a line that says what was done.

    Raises:
        ConfigError: The action is unknown, or a pause has no reason.
    """
    pauses = PromotionPauses(workspace, pipeline)
    if action == "resume":
        pauses.end(person())
        return f"{pipeline}: nights may promote again"
    if action != "pause":
        raise ConfigError(
            f"{action!r} is not `pause`, `resume`, `retire` or `promote`",
            where="champion",
            hint=f"`nightbid champion {pipeline}` shows the history",
        )
    if not reason.strip():
        raise ConfigError("a pause needs a reason", where="champion", hint="add --reason '…'")
    pauses.start(reason, person())
    return f"{pipeline}: nothing is promoted until `nightbid champion resume {pipeline}`"
