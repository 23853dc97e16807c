"""Gradient descent: epochs of shuffled batches, stopped early on newer rows."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from nightbid.config.models import Train
from nightbid.models.folder import Array
from nightbid.models.network import Network
from nightbid.progress import EpochWatcher, Progress
from nightbid.training.adam import LazyAdam
from nightbid.training.data import Examples
from nightbid.training.validation import Validation, validate

REPORT_EVERY = 20
"""Batches between progress messages."""


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training rows did."""

    epoch: int
    """From 1."""
    loss: float
    """Weighted log loss of the training rows while they were learned."""
    validation: Validation
    seconds: float


@dataclass(frozen=True)
class Fitted:
    """A training that ended."""

    epochs: tuple[Epoch, ...]
    best: Epoch
    examples_per_second: float


class Step:
    """One optimiser step as a compiled graph."""

    def __init__(self, network: Network, weight: float) -> None:
        """Compile lazily.

        Args:
            network: whose weights are changed.
            weight: mean weight of the training rows: the scale of a batch's loss does not depend
                on the scale of the weights.
        """
        self._network, self._weight = network, weight
        self._variables = [each.value for each in network.model.trainable_weights]
        self.optimizer = LazyAdam(self._variables)
        inputs = [tf.TensorSpec(each.shape, each.dtype) for each in network.model.inputs]
        column = tf.TensorSpec([None], tf.float32)
        self._run = tf.function(
            self._step,
            input_signature=[*inputs, column, column, column, tf.TensorSpec([], tf.float32)],
        )

    def __call__(self, batch: Examples, learning_rate: float) -> Any:
        """Learn a batch; returns its summed weighted log loss, before the step."""
        inputs = batch.inputs
        return self._run(
            inputs.ids,
            inputs.numbers,
            inputs.bag_weights,
            batch.labels,
            batch.given,
            batch.weights,
            np.float32(learning_rate),
        )

    def _step(
        self,
        ids: Any,
        numbers: Any,
        bag_weights: Any,
        labels: Any,
        given: Any,
        weights: Any,
        rate: Any,
    ) -> Any:
        with tf.GradientTape() as tape:
            outputs = self._network.outputs([ids, numbers, bag_weights], training=True)
            total = tf.reduce_sum(self._network.losses(outputs, labels, given) * weights)
            scale = 1 / (tf.cast(tf.size(labels), tf.float32) * self._weight)
            # Penalties are in summed form too, so that they weigh against the whole data.
            objective = tf.add_n([total, *self._network.model.losses]) * scale
        self.optimizer.apply(tape.gradient(objective, self._variables), rate)
        return total


def fit(
    network: Network,
    train: Examples,
    validation: Examples,
    settings: Train,
    *,
    step_scale: float,
    seed: int,
    progress: Progress,
    watch: EpochWatcher,
) -> Fitted:
    """Fit a network; it ends with the weights of its best epoch.

    Args:
        network: freshly built or warm.
        train: rows to learn from.
        validation: newer rows, to stop by.
        settings: the `train` block.
        step_scale: multiplies the learning rate; the architecture's.
        seed: of the order of rows.
        progress: told the loss, the speed and the time left.
        watch: told how good it is after each epoch.
    """
    for layer in network.embedded:
        layer.occurrences(_occurrences(network, train))
    step = Step(network, float(train.weights.mean(dtype=np.float64)))
    per_epoch = -(-len(train) // settings.batch_size)
    planned = per_epoch * settings.epochs
    rate = settings.learning_rate * step_scale
    epochs: list[Epoch] = []
    best: Epoch | None = None
    best_weights: dict[str, Array] = {}
    started, examples, done = time.monotonic(), 0, 0
    weight = float(train.weights.sum(dtype=np.float64))
    for number in range(1, settings.epochs + 1):
        clock, total = time.monotonic(), tf.constant(0.0, tf.float64)
        rows = train.shuffled(seed, number)
        for at, batch in enumerate(rows.batches(settings.batch_size)):
            loss = step(batch, rate * share_of_rate(settings, done / planned))
            done += 1
            total += tf.cast(loss, tf.float64)
            examples += len(batch)
            if at % REPORT_EVERY == 0:
                spent = time.monotonic() - started
                mean = float(loss) / max(float(batch.weights.sum()), 1e-12)
                progress(
                    done / planned,
                    f"epoch {number}/{settings.epochs}, loss {mean:.4f},"
                    f" {examples / spent:,.0f} samples/s, {spent / done * (planned - done):.0f} s"
                    " left",
                )
        found = Epoch(
            number,
            float(total) / weight,
            validate(network.score(validation.inputs), validation),
            time.monotonic() - clock,
        )
        epochs.append(found)
        watch(number, found.validation.log_loss, found.validation.auc)
        if best is None or found.validation.log_loss < best.validation.log_loss:
            best, best_weights = found, network.weights()
        elif number - best.epoch > settings.patience:
            break
    assert best is not None
    network.assign(best_weights)
    seconds = sum(each.seconds for each in epochs)
    return Fitted(tuple(epochs), best, len(train) * len(epochs) / seconds)


def share_of_rate(settings: Train, done: float) -> float:
    """Follow the learning-rate schedule.

    Args:
        settings: the `train` block.
        done: share of all planned steps that were taken, 0 to 1.

    Returns:
        What the learning rate is multiplied by.
    """
    if done < settings.warmup:
        return done / settings.warmup
    left = 1 - (done - settings.warmup) / (1 - settings.warmup)
    if settings.schedule == "cosine":
        return 0.5 * (1 - math.cos(math.pi * left))
    return left if settings.schedule == "linear" else 1.0


def _occurrences(network: Network, train: Examples) -> Array:
    rows = train.inputs.ids + network.layout.offsets
    return np.bincount(rows.reshape(-1), minlength=network.layout.table_rows)
