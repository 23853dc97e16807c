"""Gradient descent: epochs of shuffled batches, with early stopping on newer rows."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import tensorflow as tf

from nightbid.config.models import Train
from nightbid.models.folder import Array
from nightbid.models.network import Network, batches
from nightbid.night.progress import EpochWatcher, Progress
from nightbid.training.checkpoints import Checkpoints
from nightbid.training.data import Examples, SplitRows
from nightbid.training.step import TrainingStep
from nightbid.training.stream import Stream
from nightbid.training.validation import ValidationMetrics, validated

log = logging.getLogger(__name__)

REPORT_EVERY = 20
"""Batches between progress messages."""
COUNTED_AT_ONCE = 1 << 20
"""Number of rows whose ids are counted at once."""


@dataclass(frozen=True)
class Epoch:
    """Result of one pass over the training rows."""

    epoch: int
    """Number of the epoch, from 1."""
    loss: float
    """Mean weighted log loss of the training rows, measured before each batch's step."""
    validation: ValidationMetrics
    seconds: float


@dataclass(frozen=True)
class Fitted:
    """Result of a finished training."""

    epochs: tuple[Epoch, ...]
    best: Epoch
    examples_per_second: float
    input_share: float
    """Share of the steps' time that was spent waiting for rows."""
    resumed_at: float
    """Share of the planned steps that an earlier, killed process took."""
    batch_size: int
    """Rows per step."""
    most_epochs: int
    """Maximum number of epochs that the settings allow."""

    @property
    def is_cut_short(self) -> bool:
        """Whether the last allowed epoch was the best, so that more epochs might help."""
        return self.best.epoch == self.most_epochs


@dataclass
class _Position:
    """Progress of a training within its epochs."""

    epoch: int = 1
    batch: int = 0
    """Number of batches of this epoch that are already learned."""
    total: float = 0.0
    """Summed weighted loss of this epoch so far."""
    seconds: float = 0.0
    """Time spent on this epoch so far."""
    epochs: list[Epoch] = field(default_factory=list)
    buffer: int = 0
    """Number of rows that are shuffled together if rows stream; 0 in memory."""


class Training:
    """Fits a network.

    Args:
        network: Freshly built network, or one with the weights of an earlier training.
        train: Training rows.
        validation: Newer rows, for early stopping.
        settings: The `train` block.
        step_scale: The architecture's factor for the learning rate.
        seed: Seed of the order of rows.
        share: Share of the window's rows that `train` has; below 1 if only the newest days are
            learned. The embedding penalty of an epoch is scaled by it.
        keep_slots: Whether to restore the optimizer's moments of the best epoch at the end, for a
            later night.
        elapsed: Whether the labels of some training rows are not final.
        last: Epoch to end with; None means that validation ends the training.
    """

    def __init__(
        self,
        network: Network,
        train: SplitRows,
        validation: SplitRows,
        settings: Train,
        *,
        step_scale: float,
        seed: int,
        share: float = 1.0,
        keep_slots: bool = False,
        elapsed: bool = False,
        last: int | None = None,
    ) -> None:
        self._last = last
        self._network, self._train, self._validation = network, train, validation
        self._settings, self._seed = settings, seed
        self._batch_size, self._epochs = settings.sized(len(train))
        self._rate = settings.learning_rate * step_scale
        for layer in network.embedded:
            layer.occurrences(_occurrences(network, train) / share)
        stream = train if isinstance(train, Stream) else None
        self.step = TrainingStep(
            network,
            train.weight / len(train),
            settings.average,
            readers=stream.workers if stream else 1,
            elapsed=elapsed,
        )
        self._best_weights: dict[str, Array] = {}
        self._keep_slots = keep_slots
        self._best_slots: list[Array] = []
        self._place = _Position(buffer=stream.buffer if stream else 0)
        self._waited = self._learned = 0.0

    def run(self, *, progress: Progress, watch: EpochWatcher, checkpoints: Checkpoints) -> Fitted:
        """Train from the latest checkpoint to the end; the network gets its best epoch's weights.

        Args:
            progress: Progress callback; receives the loss, the speed and the time left.
            watch: Callback that receives the validation metrics after each epoch.
            checkpoints: Storage for the training state.
        """
        place = self._resume(checkpoints)
        settings = self._settings
        size, weight = len(self._train), self._train.weight
        per_epoch = -(-size // self._batch_size)
        planned = per_epoch * self._epochs
        resumed = (place.epoch - 1) * per_epoch + place.batch
        started, examples = time.monotonic(), 0
        while place.epoch <= self._epochs and not self._is_over():
            clock, before = time.monotonic(), place.seconds
            total = tf.constant(place.total, tf.float64)
            for at, batch in enumerate(self._batches(), place.batch):
                done = (place.epoch - 1) * per_epoch + at
                rows = min(self._batch_size, size - at * self._batch_size)
                loss = self.step(batch, self._rate * share_of_rate(settings, done / planned), rows)
                total += tf.cast(loss, tf.float64)
                examples += rows
                place.batch = at + 1
                if at % REPORT_EVERY == 0:
                    spent = time.monotonic() - started
                    mean = float(loss) / max(float(batch.weights.mean()) * rows, 1e-12)
                    left = spent / (done + 1 - resumed) * (planned - done - 1)
                    progress(
                        (done + 1) / planned,
                        f"epoch {place.epoch}/{self._epochs}, loss {mean:.4f},"
                        f" {examples / spent:,.0f} samples/s, {left:.0f} s left",
                    )
                if checkpoints.due:
                    place.total = float(total)
                    place.seconds = before + time.monotonic() - clock
                    self._save(checkpoints)
            learned = time.monotonic() - clock
            self._learned += learned
            self._end_epoch(float(total) / weight, before + learned, watch)
        assert place.epochs
        self._network.assign(self._best_weights)
        for moment, best in zip(self._moments, self._best_slots, strict=False):
            moment.assign(best)
        seconds = max(time.monotonic() - started, 1e-9)
        return Fitted(
            tuple(place.epochs),
            self._best(),
            examples_per_second=examples / seconds,
            input_share=self._waited / max(self._learned, 1e-9),
            resumed_at=resumed / planned,
            batch_size=self._batch_size,
            most_epochs=self._epochs,
        )

    def _batches(self) -> Iterator[Examples]:
        """Yield the batches that this epoch has not learned yet, and time the waiting for them."""
        place, size = self._place, self._batch_size
        rows = self._train.shuffled(size, seed=self._seed, epoch=place.epoch, first=place.batch)
        while True:
            clock = time.monotonic()
            batch = next(rows, None)
            self._waited += time.monotonic() - clock
            if batch is None:
                return
            yield batch

    def _end_epoch(self, loss: float, seconds: float, watch: EpochWatcher) -> None:
        place, clock = self._place, time.monotonic()
        with self._averaged():
            values = self._network.card.value is not None
            validation = validated(self._network.score, self._validation, values=values)
            seconds += time.monotonic() - clock
            place.epochs.append(Epoch(place.epoch, loss, validation, seconds))
            if self._best() is place.epochs[-1]:
                self._best_weights = self._network.weights()
                if self._keep_slots:
                    self._best_slots = [moment.numpy() for moment in self._moments]
        if self._settings.reset_tables == "each_epoch":
            self._reset_tables()
        place.epoch, place.batch, place.total, place.seconds = place.epoch + 1, 0, 0.0, 0.0
        watch(place.epoch - 1, validation.log_loss, validation.auc)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Give the network its averaged weights within the context, if an average is kept."""
        if not self._settings.average:
            yield
            return
        variables = self._network.model.trainable_weights
        learned = [variable.numpy() for variable in variables]
        for variable, mean in zip(variables, self.step.optimizer.averaged(), strict=True):
            variable.assign(mean)
        try:
            yield
        finally:
            for variable, value in zip(variables, learned, strict=True):
                variable.assign(value)

    def _reset_tables(self) -> None:
        """Start the next epoch with fresh embeddings (MEDA; Fan et al., 2023, arXiv 2305.19531).

        The other layers keep their weights. The new values depend on seed and epoch alone.
        """
        optimizer = self.step.optimizer
        paths = [variable.path for variable in self._network.model.trainable_weights]
        for number, layer in enumerate(self._network.embedded):
            table = layer.table
            seed = [self._seed, self._place.epoch * 1000 + number]
            initial = layer.scale * tf.random.stateless_normal(table.shape, seed)
            optimizer.reset(paths.index(table.path), initial)
        optimizer.began.assign(optimizer.step)

    def _best(self) -> Epoch:
        if self._last is not None:
            return self._place.epochs[-1]
        return min(self._place.epochs, key=lambda epoch: epoch.validation.log_loss)

    def _is_over(self) -> bool:
        epochs = self._place.epochs
        if self._last is not None:
            return len(epochs) >= self._last
        return bool(epochs) and epochs[-1].epoch - self._best().epoch > self._settings.patience

    @property
    def _moments(self) -> list[Any]:
        optimizer = self.step.optimizer
        return [optimizer.step, *optimizer.first, *optimizer.second]

    @property
    def _state(self) -> list[Any]:
        """Every variable that a step changes, including the states of random generators."""
        return [*self._network.model.variables, *self.step.optimizer.slots]

    def _save(self, checkpoints: Checkpoints) -> None:
        # With several replicas, a variable converts to an array only through `numpy`.
        arrays = {f"state{at:04d}": variable.numpy() for at, variable in enumerate(self._state)}
        arrays |= {f"best {name}": array for name, array in self._best_weights.items()}
        arrays |= {f"slot{at:04d}": array for at, array in enumerate(self._best_slots)}
        checkpoints.save(arrays, asdict(self._place))

    def _resume(self, checkpoints: Checkpoints) -> _Position:
        saved = checkpoints.load()
        if saved is not None and bool(saved[1].get("buffer")) != bool(self._place.buffer):
            # A machine with more or less memory uses another order, so rows would be mixed up.
            log.warning("training starts over: its checkpoint was written with rows %s",
                        "in memory" if self._place.buffer else "streamed")  # fmt: skip
            saved = None
        if saved is not None:
            arrays, place = saved
            for at, variable in enumerate(self._state):
                variable.assign(arrays[f"state{at:04d}"])
            self._best_weights = {
                name.removeprefix("best "): array
                for name, array in arrays.items()
                if name.startswith("best ")
            }
            self._best_slots = [arrays[name] for name in sorted(arrays) if name.startswith("slot")]
            epochs = [
                Epoch(**{**epoch, "validation": ValidationMetrics(**epoch["validation"])})
                for epoch in place.pop("epochs")
            ]
            self._place = _Position(**place, epochs=epochs)
            if isinstance(self._train, Stream):
                self._train = replace(self._train, buffer=self._place.buffer)
        return self._place


def share_of_rate(settings: Train, done: float) -> float:
    """Compute the factor that the schedule gives to the learning rate.

    Args:
        settings: The `train` block.
        done: Share of all planned steps that are done, 0 to 1.

    Returns:
        Factor for the learning rate, 0 to 1.
    """
    if done < settings.warmup:
        return done / settings.warmup
    left = 1 - (done - settings.warmup) / (1 - settings.warmup)
    if settings.schedule == "cosine":
        return 0.5 * (1 - math.cos(math.pi * left))
    return left if settings.schedule == "linear" else 1.0


def _occurrences(network: Network, train: SplitRows) -> Array:
    """Count how often one epoch looks up each row of the embedding table."""
    counts = np.zeros(network.layout.table_rows, np.int64)
    for piece in train.pieces():
        for some in batches(piece.inputs, COUNTED_AT_ONCE):
            rows = some.ids + network.layout.offsets
            counts += np.bincount(rows.reshape(-1), minlength=len(counts))
    return counts
