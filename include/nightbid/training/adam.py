"""Adam (Kingma & Ba, 2015) that never touches a table row which a batch did not use."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-7
REST1, REST2 = (float(np.float32(1) - np.float32(each)) for each in (BETA1, BETA2))
"""1 - beta as TensorFlow's own Adam takes it, in float32: tables and dense weights step alike."""


class LazyAdam(tf.Module):  # type: ignore[misc]
    """Adam for dense weights, and lazily for embedding tables.

    A table's gradient comes as rows with repetitions: they are summed per distinct row, and only
    those rows of the table and of its two moments are read and written. The cost of a step does
    not depend on the size of the table. (Moments of an unused row do not decay meanwhile; bias is
    corrected with the step count of the whole, as in the usual lazy Adams.)

    Under a distribution strategy gradients are first summed over all replicas, sparse ones as
    rows; every replica then takes the same step.
    """

    def __init__(self, variables: list[Any]) -> None:
        super().__init__()
        self._variables = variables
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
        self.first = [tf.Variable(tf.zeros_like(each), trainable=False) for each in variables]
        self.second = [tf.Variable(tf.zeros_like(each), trainable=False) for each in variables]

    @property
    def slots(self) -> list[Any]:
        """The step count and all moments: with the weights, the whole state of a training."""
        return [self.step, *self.first, *self.second]

    def apply(self, gradients: list[Any], learning_rate: Any) -> None:
        """Take one step; called inside a `tf.function`.

        Args:
            gradients: one per variable; IndexedSlices for tables, None where there is none.
            learning_rate: scalar float32.
        """
        used = [at for at, each in enumerate(gradients) if each is not None]
        found = [gradients[at] for at in used]
        if not tf.distribute.has_strategy():
            self.step.assign_add(1)
            rate = self._rate(learning_rate)
            for at, gradient in zip(used, found, strict=True):
                _update(self._variables[at], self.first[at], self.second[at], gradient, rate)
            return

        def together(strategy: Any, gradients: list[Any], learning_rate: Any) -> None:
            everywhere = strategy.extended
            pairs = [(each, self._variables[at]) for at, each in zip(used, gradients, strict=True)]
            summed = everywhere.batch_reduce_to(tf.distribute.ReduceOp.SUM, pairs)
            everywhere.update(self.step, lambda step: step.assign_add(1))
            rate = self._rate(
                everywhere.reduce_to(tf.distribute.ReduceOp.MEAN, learning_rate, self.step)
            )
            for at, gradient in zip(used, summed, strict=True):
                slots = (self.first[at], self.second[at], gradient, rate)
                everywhere.update(self._variables[at], _update, args=slots)

        replica = tf.distribute.get_replica_context()
        replica.merge_call(together, args=(found, learning_rate))

    def _rate(self, learning_rate: Any) -> Any:
        count = tf.cast(self.step, tf.float32)
        return learning_rate * tf.sqrt(1 - BETA2**count) / (1 - BETA1**count)


def _update(variable: Any, first: Any, second: Any, gradient: Any, rate: Any) -> None:
    if isinstance(gradient, tf.IndexedSlices):
        rows, total = _per_row(gradient)
        m = BETA1 * tf.gather(first, rows) + REST1 * total
        v = BETA2 * tf.gather(second, rows) + REST2 * tf.square(total)
        first.scatter_update(tf.IndexedSlices(m, rows))
        second.scatter_update(tf.IndexedSlices(v, rows))
        change = rate * m / (tf.sqrt(v) + EPSILON)
        variable.scatter_sub(tf.IndexedSlices(change, rows))
    else:
        # TensorFlow's own Adam, one pass over the weights. Powers of 0: the rate is corrected.
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=first.handle,
            v=second.handle,
            beta1_power=0.0,
            beta2_power=0.0,
            lr=rate,
            beta1=BETA1,
            beta2=BETA2,
            epsilon=EPSILON,
            grad=gradient,
        )


def _per_row(gradient: Any) -> tuple[Any, Any]:
    """Distinct rows and the sum of each: [distinct], [distinct, dim].

    A sparse matrix with a 1 for each repetition adds the same numbers in the same order as
    `unsorted_segment_sum`, to the same bits, in less than half of its time (47,000 rows of 16).
    """
    rows, slots = tf.unique(gradient.indices, out_idx=tf.int64)
    size = tf.size(slots, tf.int64)
    ones = tf.SparseTensor(
        tf.stack([slots, tf.range(size)], axis=1),
        tf.ones([size]),
        tf.stack([tf.size(rows, tf.int64), size]),
    )
    return rows, tf.sparse.sparse_dense_matmul(ones, gradient.values)
