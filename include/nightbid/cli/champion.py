"""`nightbid champion pause|resume`: whether nights may promote."""

from __future__ import annotations

import getpass
import os

from nightbid.errors import ConfigError
from nightbid.night.champion import ChampionPointer


def person(name: str = "") -> str:
    """Name of the person who acts: the one given, else the user of this shell."""
    if name:
        return name
    try:
        return getpass.getuser()
    except OSError:  # A container's user may have no name.
        return f"uid {os.getuid()}"


def pause_or_resume(pointer: ChampionPointer, action: str, pipeline: str, reason: str) -> str:
    """Stop or allow promotions of a pipeline; what was done, in one line.

    Raises:
        ConfigError: an unknown action, or a pause without a reason.
    """
    if action == "resume":
        pointer.resume()
        return f"{pipeline}: nights may promote again"
    if action != "pause":
        raise ConfigError(
            f"{action!r} is neither `pause` nor `resume`",
            where="champion",
            hint=f"`nightbid champion {pipeline}` shows the history",
        )
    if not reason:
        raise ConfigError("a pause needs a reason", where="champion", hint="add --reason '…'")
    pointer.pause(reason, person())
    return f"{pipeline}: nothing is promoted until `nightbid champion resume {pipeline}`"
