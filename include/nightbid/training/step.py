"""One optimizer step of a network: forward, backward, update, on every replica."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from nightbid.models.network import Network, is_table
from nightbid.training.adam import LazyAdam
from nightbid.training.data import Examples


class Step:
    """One optimizer step as a compiled graph, on every replica where there are several."""

    def __init__(
        self,
        network: Network,
        weight: float,
        average: float = 0.0,
        *,
        readers: int = 1,
        elapsed: bool = False,
    ) -> None:
        """Compile lazily; called within the scope of the strategy.

        Args:
            network: whose weights are changed.
            weight: mean weight of the training rows: the scale of a batch's loss does not depend
                on the scale of the weights.
            average: decay per step of the average of the weights; 0 keeps none.
            readers: workers that read a share of each batch of their own; 1: all see all of it.
            elapsed: whether some rows' labels are not final.
        """
        self._network, self._weight, self._readers = network, weight, readers
        self._elapsed = elapsed
        trained = network.model.trainable_weights
        self._variables = [each.value for each in trained]
        self.optimizer = LazyAdam(
            self._variables, tables=[is_table(each) for each in trained], average=average
        )
        inputs = [tf.TensorSpec(each.shape, each.dtype) for each in network.model.inputs]
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
        """Learn a batch; returns its summed weighted log loss, before the step.

        Args:
            batch: what this worker reads of it.
            learning_rate: of this step.
            rows: of the batch, those of the other workers included; default: as many as here.
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
            # Replicas that see the same rows learn every n-th of them.
            replica = tf.distribute.get_replica_context()
            apart = replica.num_replicas_in_sync // self._readers
            first = replica.replica_id_in_sync_group % apart
            return self._step([each[first::apart] for each in columns], rate, rows)

        strategy = tf.distribute.get_strategy()
        return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(one), axis=None)

    def _step(self, columns: list[Any], rate: Any, rows: Any) -> Any:
        columns, seen = (columns[:-1], columns[-1]) if self._elapsed else (columns, None)
        *inputs, labels, given, weights = columns
        with tf.GradientTape() as tape:
            outputs = self._network.outputs(inputs, training=True)
            total = tf.reduce_sum(self._network.losses(outputs, labels, given, seen) * weights)
            scale = 1 / (rows * self._weight)
            # Penalties are in summed form too, so that they weigh against the whole data.
            objective = tf.add_n([total, *self._network.model.losses]) * scale
        self.optimizer.apply(tape.gradient(objective, self._variables), rate)
        return total
