"""Pauses of a pipeline's promotions: `paused.json` while one lasts, and a record of each change."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from nightbid.night.sealed import Sealed, seal, unseal
from nightbid.storage.files import read_all, remove, write_atomically, write_next
from nightbid.storage.workspace import Workspace


class Pause(Sealed):
    """State of a pipeline whose promotions a user has paused."""

    reason: str
    since: datetime
    by: str = ""
    """User who paused promotions."""


class PauseChange(Sealed):
    """Start or end of a pause, as recorded in the history."""

    change: Literal["pause", "resume"]
    at: datetime
    by: str = ""
    reason: str = ""


class PromotionPauses:
    """Reads, starts and ends the pauses of one pipeline. Rollbacks remain possible in a pause."""

    def __init__(self, workspace: Workspace, pipeline: str) -> None:
        self._folder = workspace.champion_folder(pipeline)
        self._pipeline = pipeline

    def current(self) -> Pause | None:
        """The current pause; None if promotions are not paused."""
        name = "paused.json"
        text = read_all(self._folder, ".json").get(name)
        if text is None:
            return None
        return unseal(
            Pause, text, self._folder / name, f"run `nightbid champion resume {self._pipeline}`"
        )

    def start(self, reason: str, by: str = "") -> Pause:
        """Pause promotions until `end`.

        Args:
            reason: Reason, shown with the champion.
            by: User who made the decision.
        """
        pause = Pause(reason=reason, since=datetime.now(UTC), by=by)
        write_atomically(self._folder / "paused.json", seal(pause))
        self._record(PauseChange(change="pause", at=pause.since, by=by, reason=reason))
        return pause

    def end(self, by: str = "") -> None:
        """Allow promotions again.

        Args:
            by: User who made the decision.
        """
        remove(self._folder / "paused.json")
        self._record(PauseChange(change="resume", at=datetime.now(UTC), by=by))

    def changes(self) -> list[PauseChange]:
        """All starts and ends of pauses, oldest first."""
        folder = self._folder / "pauses"
        return [
            unseal(
                PauseChange, text, folder / name, "restore this file from a backup, or delete it"
            )
            for name, text in sorted(read_all(folder, ".json").items())
        ]

    def _record(self, change: PauseChange) -> None:
        write_next(self._folder / "pauses", seal(change))
