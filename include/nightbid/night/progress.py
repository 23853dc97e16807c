"""How long-running jobs report progress. The library reports; the caller displays it."""

from __future__ import annotations

import logging
import time
from typing import Protocol


class Progress(Protocol):
    """Callback for a stage's progress; may be called at any rate."""

    def __call__(self, done: float, message: str = "") -> None:
        """Report progress.

        Args:
            done: Share of the work that is done, 0 to 1.
            message: Current activity with its figures (rows/s, loss).
        """


class EpochWatcher(Protocol):
    """Callback of a training after each pass over its rows."""

    def __call__(self, epoch: int, log_loss: float, auc: float | None) -> None:
        """Handle the end of an epoch; an exception ends the training.

        Args:
            epoch: Number of the epoch, from 1 (for an ensemble: number of trees).
            log_loss: Log loss of the validation rows.
            auc: AUC of the validation rows; None if all labels are equal.
        """


def unwatched(epoch: int, log_loss: float, auc: float | None) -> None:
    """No-op watcher."""


class LogProgress:
    """Writes progress to the log, at most one line every `every` seconds."""

    def __init__(self, stage: str, every: float = 5.0) -> None:
        self._log = logging.getLogger(f"nightbid.{stage}")
        self._every = every
        self._started = time.monotonic()
        self._last = float("-inf")

    def __call__(self, done: float, message: str = "") -> None:
        """Log the progress if the last line is old enough."""
        now = time.monotonic()
        if now - self._last < self._every and done < 1:
            return
        self._last = now
        spent = now - self._started
        left = f", {spent / done - spent:.0f} s left" if 0.02 < done < 1 else ""
        if message.endswith(" left"):
            left = ""  # The message has its own estimate.
        self._log.info("%3.0f%% %s%s", 100 * done, message, left)


def silent(done: float, message: str = "") -> None:
    """No-op progress callback."""
