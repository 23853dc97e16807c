"""How long a trigger waits for a workspace or a ledger that is out of reach."""

from __future__ import annotations

from nightbid.errors import WorkspaceError

PATIENCE_POLLS = 60
"""Maximum number of consecutive polls that may fail."""


class Patience:
    """Counts the consecutive polls of a trigger that failed: a restart only costs polls."""

    def __init__(self) -> None:
        self._missed = 0

    def renew(self) -> None:
        """Note a poll that succeeded."""
        self._missed = 0

    def excuse(self, error: WorkspaceError) -> None:
        """Note a poll that failed.

        Raises:
            WorkspaceError: The error, if too many polls in a row have failed.
        """
        self._missed += 1
        if self._missed > PATIENCE_POLLS:
            raise error
