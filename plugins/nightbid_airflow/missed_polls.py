"""How long a trigger waits for a workspace or a ledger that is out of reach."""

from __future__ import annotations

from nightbid.errors import WorkspaceError

PATIENCE_POLLS = 60
"""Maximum number of consecutive polls that may fail."""


class MissedPolls:
    """Counts the consecutive polls of a trigger that failed: an outage only costs polls."""

    def __init__(self) -> None:
        self._count = 0

    def forget(self) -> None:
        """Note a poll that succeeded."""
        self._count = 0

    def add(self, error: WorkspaceError) -> None:
        """Note a poll that failed.

        Raises:
            WorkspaceError: The error, if too many polls in a row have failed.
        """
        self._count += 1
        if self._count > PATIENCE_POLLS:
            raise error
