"""How a long job says where it is. The library reports; the caller decides how to show it."""

from __future__ import annotations

import logging
import time
from typing import Protocol


class Progress(Protocol):
    """Called by a stage, as often as it likes."""

    def __call__(self, done: float, message: str = "") -> None:
        """Report.

        Args:
            done: the share of the work that is done, 0 to 1.
            message: what is being done, with its figures (rows/s, loss).
        """


class EpochWatcher(Protocol):
    """Called by a training after each pass over its rows."""

    def __call__(self, epoch: int, log_loss: float, auc: float | None) -> None:
        """Take note, or end the training by an exception.

        Args:
            epoch: from 1 (for an ensemble: number of trees).
            log_loss: of the validation rows.
            auc: of the validation rows; None where all labels are equal.
        """


def unwatched(epoch: int, log_loss: float, auc: float | None) -> None:
    """No-op watcher."""


class LogProgress:
    """Log lines, at most one every `every` seconds: for task logs and pipes."""

    def __init__(self, stage: str, every: float = 5.0) -> None:
        self._log = logging.getLogger(f"nightbid.{stage}")
        self._every = every
        self._started = time.monotonic()
        self._last = float("-inf")

    def __call__(self, done: float, message: str = "") -> None:
        """Log how far the work is, if the last line is old enough."""
        now = time.monotonic()
        if now - self._last < self._every and done < 1:
            return
        self._last = now
        spent = now - self._started
        left = f", {spent / done - spent:.0f} s left" if 0.02 < done < 1 else ""
        if message.endswith(" left"):
            left = ""  # The stage knows better.
        self._log.info("%3.0f%% %s%s", 100 * done, message, left)


def silent(done: float, message: str = "") -> None:
    """Show nothing."""
