"""One optimizer step of a network: forward, backward, update, on every replica."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from nightbid.models.network import Network, is_table
from nightbid.training.adam import LazyAdam
from nightbid.training.data import Examples


class TrainingStep:
    """One optimizer step as a compiled graph, run on every replica."""

    def __init__(
        self,
        network: Network,
        weight: float,
        average: float = 0.0,
        *,
        readers: int = 1,
        elapsed: bool = False,
    ) -> None:
        """Create the step; call this within the strategy's scope. It compiles on the first call.

        Args:
            network: Network to train.
            weight: Mean weight of the training rows; a batch's loss is divided by it, so its scale
                does not depend on the scale of the weights.
            average: Decay per step of the average of the weights; 0 keeps no average.
            readers: Number of workers that each read their own share of each batch; 1 means that
                all workers read the whole batch.
            elapsed: Whether the labels of some rows are not final.
        """
        self._network, self._weight, self._readers = network, weight, readers
        self._elapsed = elapsed
        trained = network.model.trainable_weights
        self._variables = [variable.value for variable in trained]
        self.optimizer = LazyAdam(
            self._variables, tables=[is_table(variable) for variable in trained], average=average
        )
        inputs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in network.model.inputs]
        column = tf.TensorSpec([None], tf.float32)
        self._run = tf.function(
            self._on_replicas if tf.distribute.has_strategy() else self._here,
            autograph=False,  # there is no control flow on tensors to convert, which takes seconds
            input_signature=[
                *inputs,
                *[column] * (4 if elapsed else 3),
                *[tf.TensorSpec([], tf.float32)] * 2,
            ],
        )

    def __call__(self, batch: Examples, learning_rate: float, rows: int | None = None) -> Any:
        """Learn a batch.

        Args:
            batch: Rows of the batch that this worker reads.
            learning_rate: Learning rate of this step.
            rows: Rows of the batch over all workers; None means those of `batch`.

        Returns:
            The batch's weighted log loss, summed over rows, before the step.
        """
        inputs = batch.inputs
        return self._run(
            inputs.ids,
            inputs.numbers,
            inputs.bag_weights,
            batch.labels,
            batch.given,
            batch.weights,
            *([batch.seen] if self._elapsed else []),
            np.float32(learning_rate),
            np.float32(len(batch) if rows is None else rows),
        )

    def _here(self, *arguments: Any) -> Any:
        *columns, rate, rows = arguments
        return self._step(columns, rate, rows)

    def _on_replicas(self, *arguments: Any) -> Any:
        *columns, rate, rows = arguments

        def one() -> Any:
            # Replicas that see the same rows each learn every n-th row.
            replica = tf.distribute.get_replica_context()
            apart = replica.num_replicas_in_sync // self._readers
            first = replica.replica_id_in_sync_group % apart
            return self._step([column[first::apart] for column in columns], rate, rows)

        strategy = tf.distribute.get_strategy()
        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(one), axis=None)

    def _step(self, columns: list[Any], rate: Any, rows: Any) -> Any:
        columns, seen = (columns[:-1], columns[-1]) if self._elapsed else (columns, None)
        *inputs, labels, given, weights = columns
        with tf.GradientTape() as tape:
            outputs = self._network.outputs(inputs, training=True)
            total = tf.reduce_sum(self._network.losses(outputs, labels, given, seen) * weights)
            scale = 1 / (rows * self._weight)
            # Penalties are sums as well, relative to the loss of the whole data.
            objective = tf.add_n([total, *self._network.model.losses]) * scale
        self.optimizer.apply(tape.gradient(objective, self._variables), rate)
        return total
