"""A TensorFlow model of a registered architecture: building, weights, and scoring."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tensorflow as tf
from keras import ops
from keras.src.random import seed_generator
from keras.src.utils.naming import reset_uids

from nightbid.counts import counted
from nightbid.errors import CorruptDataError
from nightbid.models.fields import TABLE, Embedded, Fields
from nightbid.models.folder import Array, ModelCard, task_output
from nightbid.models.layout import Layout, Packed
from nightbid.models.registry import Architecture, find
from nightbid.models.value_losses import log_mean, value_losses

BATCH = 16384
"""Number of rows that are scored at once."""


class Network:
    """A network and its model card."""

    def __init__(self, card: ModelCard, *, seed: int = 0) -> None:
        self.card = card
        self.layout = Layout(card.features)
        architecture = find(card.architecture)
        # Keras numbers layers throughout a process, and TensorFlow sums gradients in the order of
        # names: "dense_10" before "dense_9". Restart the numbers, so that results are bit-identical
        # whatever was built before. (`clear_session` would also end a distribution scope.)
        reset_uids()
        with _seeded(seed):
            fields = Fields(self.layout, card.embedding_dim, card.embedding_l2)
            output = _built(architecture, fields, card)
            self.model = keras.Model(fields.inputs, output, name=card.architecture)
        self._score = tf.function(
            self.probability,
            autograph=False,
            input_signature=[tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in fields.inputs],
        )

    @property
    def variables(self) -> dict[str, Any]:
        """Weights by names that depend only on the architecture."""
        return {
            f"{number:03d}.{variable.path.rsplit('/', 1)[-1]}": variable
            for number, variable in enumerate(self.model.weights)
        }

    @property
    def tables(self) -> list[Any]:
        """Embedding tables: weights that are updated lazily."""
        return [variable for variable in self.model.trainable_weights if is_table(variable)]

    @property
    def embedded(self) -> Iterator[Embedded]:
        """Layers with a fused embedding table."""
        return (layer for layer in self.model.layers if isinstance(layer, Embedded))

    @property
    def parameters(self) -> int:
        """Number of trainable weights."""
        return int(sum(np.prod(variable.shape) for variable in self.model.trainable_weights))

    def weights(self) -> dict[str, Array]:
        """Return copies of all weights."""
        return {name: np.asarray(variable) for name, variable in self.variables.items()}

    def assign(self, weights: dict[str, Array]) -> None:
        """Set all weights.

        Raises:
            CorruptDataError: The weights have other names or shapes.
        """
        variables = self.variables
        shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
        if shapes != {name: array.shape for name, array in weights.items()}:
            raise CorruptDataError(
                f"weights do not fit {self.card.architecture}: {counted(len(weights), 'array')}"
                f" where it has {len(variables)}, or of other shapes",
                where="model",
                hint="train it again with this version",
            )
        for name, variable in variables.items():
            variable.assign(weights[name])

    def outputs(self, inputs: list[Any], *, training: bool) -> Any:
        """Compute the logits of each task, float32 [rows, tasks]; [rows, 1] for a single label."""
        priors = self.card.task_priors or (self.card.prior,)
        return self.model(inputs, training=training) + tf.constant([priors], tf.float32)

    def losses(self, outputs: Any, labels: Any, given: Any, seen: Any = None) -> Any:
        """Compute log losses, summed over tasks, or losses of values; float32 [rows].

        Args:
            outputs: Logits, see `outputs`.
            labels: [rows] 0 or 1, or values.
            given: [rows] 1 if the label's condition held, else 0; used by multi-task models.
            seen: [rows] share of positives that are known at the row's age; None means that all
                labels are final.
        """
        if self.card.value is not None:
            return value_losses(self.card.value, outputs, labels, self.card.prior)
        if seen is not None:
            return elapsed_time_losses(joint_logit(outputs), labels, seen)
        losses = tf.nn.sigmoid_cross_entropy_with_logits(labels, joint_logit(outputs))
        if self.card.tasks:
            losses += tf.nn.sigmoid_cross_entropy_with_logits(given, outputs[:, 0])
        return losses

    def probability(self, *inputs: Any) -> Any:
        """Compute calibrated probabilities, float32 [rows]; exported as a graph."""
        return self._calibrated(self.outputs(list(inputs), training=False), inputs[0])

    def probabilities(self, *inputs: Any) -> dict[str, Any]:
        """Compute the exported outputs: the main one, and one per task; float32 [rows] each."""
        outputs = self.outputs(list(inputs), training=False)
        probabilities = {self.card.output: self._calibrated(outputs, inputs[0])}
        for at, name in enumerate(self.card.tasks):
            probabilities[task_output(name)] = tf.sigmoid(outputs[:, at])
        return probabilities

    def _calibrated(self, outputs: Any, ids: Any) -> Any:
        calibration, head = self.card.calibration, self.card.value
        if head is not None:
            logs = log_mean(head, outputs) + calibration.intercept
            return tf.exp(tf.minimum(logs, head.largest))
        line = joint_logit(outputs) * calibration.slope + calibration.intercept
        curve = calibration.curve
        calibrated = line if curve is None else curve(line, ops)
        for offsets in calibration.offsets:
            place = self.layout.places[offsets.input].start
            calibrated += tf.gather(tf.constant(offsets.values, tf.float32), ids[:, place])
        return tf.sigmoid(calibrated)

    def predict_tasks(self, table: pa.Table) -> dict[str, npt.NDArray[np.float64]]:
        """Score featurized rows with every task of a multi-task model: column → [rows]."""
        if not self.card.tasks:
            return {}
        packed = self.layout.pack(table, serving=True)
        parts = [
            self.probabilities(part.ids, part.numbers, part.bag_weights)
            for part in batches(packed, BATCH)
        ]
        return {
            name: np.concatenate([part[task_output(name)].numpy() for part in parts]).astype(float)
            for name in self.card.tasks
        }

    def score(self, packed: Packed) -> npt.NDArray[np.float64]:
        """Compute calibrated probabilities, float64 [rows]."""
        parts = [
            self._score(part.ids, part.numbers, part.bag_weights).numpy()
            for part in batches(packed, BATCH)
        ]
        return np.concatenate([*parts, np.zeros(0)]).astype(np.float64)

    def predict(self, table: pa.Table) -> npt.NDArray[np.float64]:
        """Score featurized rows as served, with training-only inputs constant."""
        return self.score(self.layout.pack(table, serving=True))

    def predict_as_logged(self, table: pa.Table) -> npt.NDArray[np.float64]:
        """Score featurized rows with the logged training-only inputs."""
        return self.score(self.layout.pack(table, serving=False))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed Keras, and give it a random generator that other threads do not use.

    Keras draws the seeds of initializers and of dropout from Python's global `random`. Other
    threads use it too: the Cloud Storage client draws a number for each upload, and the meter
    uploads a stage's usage while it runs. One extra draw would change every weight after it.
    """
    keras.utils.set_random_seed(seed)
    of_all_threads = seed_generator.python_random
    seed_generator.python_random = random.Random(seed)  # noqa: S311 - same draws as the global one
    try:
        yield
    finally:
        seed_generator.python_random = of_all_threads


def _built(architecture: Architecture, fields: Fields, card: ModelCard) -> Any:
    """Build one tower, or one per output of a value head, on the same embeddings."""
    parameters = architecture.parameters(card.parameters)
    if card.value is None or card.value.outputs == 1:
        return architecture.build(fields, **parameters)
    towers, known = [], set()
    for at in range(card.value.outputs):
        fields.forget_linear()
        # Each tower gets unique names for its layers and variables.
        with keras.name_scope(f"output{at}"):
            towers.append(architecture.build(fields, **parameters))
        for layer in keras.Model(fields.inputs, towers[-1]).layers:
            if id(layer) not in known and at:
                layer.name = f"{layer.name}_output{at}"
            known.add(id(layer))
    return ops.concatenate(towers, axis=-1)


def elapsed_time_losses(logits: Any, labels: Any, seen: Any) -> Any:
    """Compute −y·log p − (1−y)·log(1−p·G), [rows]: the elapsed-time likelihood.

    The term −y·log G is omitted because it does not depend on the weights.

    A row of age e is observed as positive with probability p · G(e). With p = σ(z), 1 − p·G equals
    (1 + (1−G)·exp z) / (1 + exp z), so its logarithm is softplus(z + log(1−G)) − softplus(z).

    Args:
        logits: [rows] z.
        labels: [rows] y, 0 or 1, as observed so far.
        seen: [rows] G, in (0, 1].
    """
    unseen = tf.math.log(tf.maximum(1.0 - seen, 1e-12))
    hidden = tf.nn.softplus(logits + unseen)
    final = tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)
    return final - (1.0 - labels) * tf.where(seen < 1.0, hidden, tf.zeros_like(hidden))


def joint_logit(outputs: Any) -> Any:
    """Compute the logit of the product of the tasks' probabilities, [rows, tasks] to [rows].

    With p = σ(a)·σ(b), log p/(1-p) = -log(exp(-a) + exp(-b) + exp(-a-b)), which never overflows.
    """
    if outputs.shape[-1] == 1:
        return outputs[:, 0]
    return -tf.reduce_logsumexp(
        tf.concat([-outputs, -tf.reduce_sum(outputs, -1, keepdims=True)], -1), axis=-1
    )


def is_table(variable: Any) -> bool:
    """Return whether a weight is an embedding table, which is updated lazily."""
    return bool(variable.path.rsplit("/", 1)[-1] == TABLE)


def batches(packed: Packed, size: int) -> Iterator[Packed]:
    """Yield views of the rows, at most `size` at a time."""
    for start in range(0, len(packed), size):
        yield packed.take(slice(start, start + size))
