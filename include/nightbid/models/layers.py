"""Layers that several architectures share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

Tensor = Any


def mlp(x: Tensor, hidden: Sequence[int], *, dropout: float = 0.0) -> Tensor:
    """Build dense layers with ReLU, each followed by dropout if any; [d] to [hidden[-1]]."""
    for units in hidden:
        x = keras.layers.Dense(units, activation="relu", kernel_initializer="he_normal")(x)
        if dropout:
            x = keras.layers.Dropout(dropout)(x)
    return x


def logit(x: Tensor, name: str = "logit") -> Tensor:
    """Build the final layer, [d] to [1]. It starts near 0, so the model starts at the prior."""
    small = keras.initializers.RandomNormal(stddev=0.01)
    return keras.layers.Dense(1, kernel_initializer=small, name=name)(x)


def pairwise(vectors: Tensor) -> Tensor:
    """Sum the inner products of all pairs of fields; [fields, dim] to [1].

    ½·Σ over dim of ((Σ v)² - Σ v²), linear in the number of fields (Rendle 2010, lemma 3.1).
    """
    of_sum = ops.square(ops.sum(vectors, axis=1))
    of_each = ops.sum(ops.square(vectors), axis=1)
    return 0.5 * ops.sum(of_sum - of_each, axis=-1, keepdims=True)


class Bias(keras.layers.Layer):  # type: ignore[misc]
    """Adds a learned scalar."""

    def build(self, shape: Any) -> None:
        """Create the bias."""
        self.bias = self.add_weight(shape=(1,), initializer="zeros", name="bias")

    def call(self, x: Tensor) -> Tensor:
        """Add the bias."""
        return x + self.bias
