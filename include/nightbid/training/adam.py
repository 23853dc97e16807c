"""Adam (Kingma & Ba, 2015) that updates only the table rows that a batch used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from nightbid.models.folder import Array

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-7
REST1, REST2 = (float(np.float32(1) - np.float32(beta)) for beta in (BETA1, BETA2))
"""1 - beta in float32, as TensorFlow's Adam computes it: tables and dense weights step alike."""


class LazyAdam(tf.Module):  # type: ignore[misc]
    """Adam for dense weights, and lazy Adam for embedding tables.

    The gradient of a table comes as rows, some of them repeated. They are summed per distinct row,
    and only those rows of the table and of its two moments are read and written, so the cost of a
    step does not depend on the size of the table. The moments of unused rows do not decay; the bias
    correction uses the global step count, as in other lazy Adams.

    Under a distribution strategy, gradients are first summed over all replicas, sparse ones as
    rows; every replica then takes the same step.
    """

    def __init__(
        self, variables: list[Any], *, tables: Sequence[bool] = (), average: float = 0.0
    ) -> None:
        """Create the optimizer's state.

        Args:
            variables: Weights to train.
            tables: Whether each variable is an embedding table; empty means none is. Only tables
                can be reset and have their averages updated lazily.
            average: Decay per step of the exponential moving average of the weights; 0 keeps no
                average.
        """
        super().__init__()
        self._variables = variables
        self._average = average
        self._is_table = list(tables) or [False] * len(variables)
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
        self.began = tf.Variable(0, dtype=tf.int64, trainable=False, name="began")
        """Step at which the tables were last reset."""
        self.origin = tf.Variable(0, dtype=tf.int64, trainable=False, name="origin")
        """Step at which the averages begin: after a warm start, the champion's step count."""
        self.first = [_zeros(variable) for variable in variables]
        self.second = [_zeros(variable) for variable in variables]
        self.mean = [_zeros(variable) for variable in variables] if average else []
        self.seen = [
            tf.Variable(tf.zeros(variable.shape[:1] if table else [0], tf.int64), trainable=False)
            for variable, table in zip(variables, self._is_table, strict=True)
            if average
        ]
        """For each row of a table, the last step that used it."""

    @property
    def slots(self) -> list[Any]:
        """Step counts, moments and averages: with the weights, the whole state of the training."""
        return [
            self.step,
            self.began,
            self.origin,
            *self.first,
            *self.second,
            *self.mean,
            *self.seen,
        ]

    def apply(self, gradients: list[Any], learning_rate: Any) -> None:
        """Take one step; call this inside a `tf.function`.

        Args:
            gradients: One per variable; IndexedSlices for tables, None for an unused variable.
            learning_rate: Scalar float32.
        """
        used = [at for at, gradient in enumerate(gradients) if gradient is not None]
        used_gradients = [gradients[at] for at in used]
        if not tf.distribute.has_strategy():
            self.step.assign_add(1)
            rate = self._rate(learning_rate)
            for at, gradient in zip(used, used_gradients, strict=True):
                _update(self._variables[at], *self._arguments(at, gradient, rate))
            return

        def together(strategy: Any, gradients: list[Any], learning_rate: Any) -> None:
            everywhere = strategy.extended
            pairs = [
                (gradient, self._variables[at])
                for at, gradient in zip(used, gradients, strict=True)
            ]
            summed = everywhere.batch_reduce_to(tf.distribute.ReduceOp.SUM, pairs)
            everywhere.update(self.step, lambda step: step.assign_add(1))
            rate = self._rate(
                everywhere.reduce_to(tf.distribute.ReduceOp.MEAN, learning_rate, self.step)
            )
            for at, gradient in zip(used, summed, strict=True):
                arguments = self._arguments(at, gradient, rate)
                everywhere.update(self._variables[at], _update, args=arguments)

        replica = tf.distribute.get_replica_context()
        replica.merge_call(together, args=(used_gradients, learning_rate))

    def averaged(self) -> list[Array]:
        """Compute the average of each weight over the steps so far, corrected for the start at 0.

        Returns:
            One float32 array per variable, with the variable's shape. The average of a table
            covers the steps since its last reset. Rows that no step used keep their initial values.
        """
        step, decay = int(self.step.numpy()), self._average
        averages = []
        for variable, mean, seen, table in zip(
            self._variables, self.mean, self.seen, self._is_table, strict=True
        ):
            value, total = variable.numpy().astype(np.float64), mean.numpy().astype(np.float64)
            since = int(self.origin.numpy())
            if table:
                since = max(since, int(self.began.numpy()))
                rest = decay ** (step - seen.numpy()).astype(np.float64)[:, None]
                total = rest * total + (1 - rest) * value
            averages.append((total / (1 - decay ** (step - since))).astype(np.float32))
        return averages

    def resume(self, step: int) -> None:
        """Continue counting from a step of an earlier training; averages start at this step."""
        self.step.assign(step)
        self.origin.assign(step)
        for seen in self.seen:
            seen.assign(tf.fill(tf.shape(seen), tf.constant(step, tf.int64)))

    def reset(self, at: int, initial: Any) -> None:
        """Give a table new values, and clear its moments and its average.

        Args:
            at: Index of the table in the list of variables.
            initial: New values, with the shape of the table.
        """
        self._variables[at].assign(initial)
        for slots in (self.first, self.second, self.mean):
            if slots:
                slots[at].assign(tf.zeros_like(slots[at]))
        if self.seen:
            self.seen[at].assign(tf.fill(tf.shape(self.seen[at]), tf.convert_to_tensor(self.step)))

    def _arguments(self, at: int, gradient: Any, rate: Any) -> list[Any]:
        """Return the arguments that `_update` takes after the variable."""
        averages = [self.mean[at], self.seen[at]] if self._average else [None, None]
        step = tf.convert_to_tensor(self.step)
        return [self.first[at], self.second[at], *averages, gradient, rate, step, self._average]

    def _rate(self, learning_rate: Any) -> Any:
        # Tables use the global step count too: the moments of a reset table start at zero and are
        # not bias-corrected, so its first steps are large. With the correction, DCN-v2 reached
        # AUC 0.7663 on the simulated night, without it 0.7693.
        count = tf.cast(self.step, tf.float32)
        return learning_rate * tf.sqrt(1 - BETA2**count) / (1 - BETA1**count)


def _zeros(like: Any) -> Any:
    return tf.Variable(tf.zeros_like(like), trainable=False)


def _update(
    variable: Any,
    first: Any,
    second: Any,
    mean: Any,
    seen: Any,
    gradient: Any,
    rate: Any,
    step: Any,
    average: float,
) -> None:
    if isinstance(gradient, tf.IndexedSlices):
        rows, total = _per_row(gradient)
        m = BETA1 * tf.gather(first, rows) + REST1 * total
        v = BETA2 * tf.gather(second, rows) + REST2 * tf.square(total)
        first.scatter_update(tf.IndexedSlices(m, rows))
        second.scatter_update(tf.IndexedSlices(v, rows))
        change = rate * m / (tf.sqrt(v) + EPSILON)
        if average:
            _average_rows(mean, seen, rows, tf.gather(variable, rows), change, step, average)
        variable.scatter_sub(tf.IndexedSlices(change, rows))
    else:
        # TensorFlow's own Adam in one pass over the weights. The beta powers are 0 because `rate`
        # already contains the bias correction.
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
        if average:
            mean.assign(average * mean + (1 - average) * variable)


def _average_rows(
    mean: Any, seen: Any, rows: Any, old: Any, change: Any, step: Any, decay: float
) -> None:
    """Update the average of a table's rows to this step.

    A row kept its value `old` from the last step that used it up to the step before this one, so
    the average over those steps has a closed form. Unused rows are not touched.
    """
    idle = tf.cast(step - 1 - tf.gather(seen, rows), tf.float32)[:, None]
    rest = tf.pow(tf.constant(decay, tf.float32), idle)
    before = rest * tf.gather(mean, rows) + (1 - rest) * old
    now = decay * before + (1 - decay) * (old - change)
    mean.scatter_update(tf.IndexedSlices(now, rows))
    seen.scatter_update(tf.IndexedSlices(tf.fill(tf.shape(rows), step), rows))


def _per_row(gradient: Any) -> tuple[Any, Any]:
    """Return the distinct rows [distinct] and the sum of each one's gradients [distinct, dim].

    A sparse matrix with a 1 for each repetition adds the same numbers in the same order as
    `unsorted_segment_sum`, with bit-identical results, in less than half the time (47,000 rows
    of 16).
    """
    rows, slots = tf.unique(gradient.indices, out_idx=tf.int64)
    size = tf.size(slots, tf.int64)
    ones = tf.SparseTensor(
        tf.stack([slots, tf.range(size)], axis=1),
        tf.ones([size]),
        tf.stack([tf.size(rows, tf.int64), size]),
    )
    return rows, tf.sparse.sparse_dense_matmul(ones, gradient.values)
