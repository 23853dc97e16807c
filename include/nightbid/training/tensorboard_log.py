"""TensorBoard logs of a training: `tensorboard --logdir <workspace>/stages/<pipeline>/train`."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from nightbid.night.progress import EpochWatcher
from nightbid.training.loop import Fitted


class TensorBoardLogger:
    """One event file.

    Args:
        folder: for it; None: nothing is written.
    """

    def __init__(self, folder: Path | None) -> None:
        self._writer = (
            tf.summary.create_noop_writer()
            if folder is None
            else tf.summary.create_file_writer(str(folder))
        )

    def close(self) -> None:
        """End the file."""
        self._writer.close()

    def beside(self, watch: EpochWatcher) -> EpochWatcher:
        """Log validation figures as they come, and pass them on."""

        def both(epoch: int, log_loss: float, auc: float | None) -> None:
            with self._writer.as_default(step=epoch):
                tf.summary.scalar("validation/log_loss", log_loss)
                if auc is not None:
                    tf.summary.scalar("validation/auc", auc)
            self._writer.flush()
            watch(epoch, log_loss, auc)

        return both

    def tell(self, fitted: Fitted) -> None:
        """Log what is known at the end."""
        for each in fitted.epochs:
            with self._writer.as_default(step=each.epoch):
                tf.summary.scalar("train/log_loss", each.loss)
                tf.summary.scalar("train/seconds", each.seconds)
