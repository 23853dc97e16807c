"""TensorBoard logs of a training: `tensorboard --logdir <workspace>/stages/<pipeline>/train`."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from nightbid.night.progress import EpochWatcher
from nightbid.training.loop import Fitted


class TensorBoardLogger:
    """Writes one event file.

    Args:
        folder: Folder for the file; None disables logging.
    """

    def __init__(self, folder: Path | None) -> None:
        self._writer = (
            tf.summary.create_noop_writer()
            if folder is None
            else tf.summary.create_file_writer(str(folder))
        )

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def beside(self, watch: EpochWatcher) -> EpochWatcher:
        """Return a callback that logs each epoch's validation metrics and then calls `watch`."""

        def both(epoch: int, log_loss: float, auc: float | None) -> None:
            with self._writer.as_default(step=epoch):
                tf.summary.scalar("validation/log_loss", log_loss)
                if auc is not None:
                    tf.summary.scalar("validation/auc", auc)
            self._writer.flush()
            watch(epoch, log_loss, auc)

        return both

    def tell(self, fitted: Fitted) -> None:
        """Log the training loss and the duration of each epoch after the training."""
        for epoch in fitted.epochs:
            with self._writer.as_default(step=epoch.epoch):
                tf.summary.scalar("train/log_loss", epoch.loss)
                tf.summary.scalar("train/seconds", epoch.seconds)
