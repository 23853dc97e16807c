"""Embedded inputs as symbolic Keras tensors, which an architecture builds on.

All ids share one table. Each input's ids are shifted to their own range of rows; inputs with the
same vocabulary share a range. One gather fetches all rows of a batch, for any number of inputs.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from nightbid.models.layout import Layout, width
from nightbid.schema import ModelInput

Tensor = Any
"""A symbolic Keras tensor; shapes in docstrings omit the batch dimension."""
TABLE = "table"
"""Name of variables that are updated lazily: a step changes only rows that its batch used."""
FORGET = 0.1
"""Share of training rows with their training-only inputs blanked, as they are at serving: the
blank then represents the average (Zhao et al., 2019, drop the position in the same way)."""


class Fields:
    """Embedded model inputs, built on first access."""

    def __init__(self, layout: Layout, embedding_dim: int, embedding_l2: float = 0.0) -> None:
        self.layout = layout
        self.embedding_dim = embedding_dim
        self.embedding_l2 = embedding_l2
        places, bags = len(layout.offsets), sum(
            lookup.length for lookup in layout.lookups if lookup.kind == "bag"
        )  # fmt: skip
        self.inputs = [
            keras.Input((places,), dtype="int32", name="ids"),
            keras.Input((len(layout.numbers),), dtype="float32", name="numbers"),
            keras.Input((bags,), dtype="float32", name="bag_weights"),
        ]
        self._ids, self._numbers = BlankingLayer(layout)(self.inputs[0], self.inputs[1])

    @cached_property
    def flat(self) -> Tensor:
        """[lookups * embedding_dim + floats]: the concatenation of all embeddings and floats."""
        parts = [self._flat_lookups] if self.layout.lookups else []
        parts += [self._numbers] if self.layout.numbers else []
        return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1)

    @cached_property
    def vectors(self) -> Tensor:
        """[fields, embedding_dim]: one vector per input; a float scales a learned vector."""
        parts = []
        if self.layout.lookups:
            shape = (-1, len(self.layout.lookups), self.embedding_dim)
            parts.append(ops.reshape(self._flat_lookups, shape))
        if self.layout.numbers:
            parts.append(NumberVectors(self.embedding_dim)(self._numbers))
        return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=1)

    @cached_property
    def linear(self) -> Tensor:
        """[1]: the first-order term, the sum of one weight per id and per float."""
        return self.linear_with(0.0)

    def linear_with(self, l2: float) -> Tensor:
        """Build the first-order term, [1], with a penalty on its weights.

        Args:
            l2: Strength of the penalty ½·l2·w² per weight; see `Embedded`.
        """
        parts = []
        if self.layout.lookups:
            weights = Embedded(self.layout, 1, scale=0.0, l2=l2, name="linear")(self._ids)
            parts.append(ops.sum(self._side_by_side(weights, 1), axis=-1, keepdims=True))
        if self.layout.numbers:
            dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
            parts.append(dense(self._numbers))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    def forget_linear(self) -> None:
        """Clear the cached first-order term, so that the next output builds its own."""
        self.__dict__.pop("linear", None)

    @property
    def numbers(self) -> Tensor:
        """[floats]: values of the float inputs."""
        return self._numbers

    def sequence(self, model_input: ModelInput) -> tuple[Tensor, Tensor]:
        """Return a sequence's vectors, [length, embedding_dim], and mask [length], 1 if filled."""
        places = self.layout.places[model_input.name]
        mask = ops.cast(ops.not_equal(self._ids[:, places], 0), "float32")
        return self._embedded[:, places], mask

    def vector(self, model_input: ModelInput) -> Tensor:
        """Return the vector, [embedding_dim], of one id, bag (weighted sum) or sequence (mean)."""
        return self._pooled(self._embedded[:, self.layout.places[model_input.name]], model_input)

    @cached_property
    def _embedded(self) -> Tensor:
        scale = 1 / math.sqrt(self.embedding_dim)
        table = Embedded(
            self.layout,
            self.embedding_dim,
            scale=0.1 * scale,
            l2=self.embedding_l2,
            name="embedding",
        )
        return table(self._ids)

    @cached_property
    def _flat_lookups(self) -> Tensor:
        return self._side_by_side(self._embedded, self.embedding_dim)

    def _side_by_side(self, embedded: Tensor, dim: int) -> Tensor:
        """Pool every input, [places, dim] to [lookups * dim].

        The gradient of one split into runs of single ids and lists is one concatenation; a slice
        per input would create a matrix of zeros for each input.
        """
        runs: list[list[ModelInput]] = []
        for lookup in self.layout.lookups:
            if lookup.kind == "id" and runs and runs[-1][0].kind == "id":
                runs[-1].append(lookup)
            else:
                runs.append([lookup])
        if len(runs) == 1:
            pieces = [embedded]
        else:
            ends = np.cumsum([sum(map(width, run)) for run in runs])[:-1].tolist()
            pieces = ops.split(embedded, ends, axis=1)
        parts = [
            ops.reshape(piece, (-1, len(run) * dim))
            if run[0].kind == "id"
            else self._pooled(piece, run[0])
            for piece, run in zip(pieces, runs, strict=True)
        ]
        return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1)

    def _pooled(self, vectors: Tensor, model_input: ModelInput) -> Tensor:
        """Pool the vectors of one input, [length, dim] to [dim]."""
        if model_input.kind == "bag":
            weights = self.inputs[2][:, self.layout.bag_places[model_input.name]]
            return ops.sum(vectors * ops.expand_dims(weights, -1), axis=1)
        if model_input.kind == "sequence":
            places = self.layout.places[model_input.name]
            mask = ops.cast(ops.not_equal(self._ids[:, places], 0), "float32")
            filled = ops.maximum(ops.sum(mask, axis=1, keepdims=True), 1.0)
            return ops.sum(vectors * ops.expand_dims(mask, -1), axis=1) / filled
        return vectors[:, 0]


class Embedded(keras.layers.Layer):  # type: ignore[misc]
    """The fused embedding table: ids [places] to vectors [places, dim].

    Args:
        layout: Rows of the table and offsets of the ids.
        dim: Size of a vector.
        scale: Standard deviation of the initial values.
        l2: Strength of a penalty ½·l2·w² on the rows that a batch uses. It is added once per
            occurrence and divided by the row's number of occurrences in training (set by
            `occurrences` before fitting), so that an epoch adds up to the full penalty without
            touching rows that a batch did not use.
    """

    def __init__(
        self, layout: Layout, dim: int, *, scale: float, l2: float = 0.0, name: str
    ) -> None:
        super().__init__(name=name)
        self.layout, self.dim, self.scale, self.l2 = layout, dim, scale, l2
        self.share: Tensor = None

    def build(self, shape: Any) -> None:
        """Create the table."""
        initial = keras.initializers.RandomNormal(stddev=self.scale) if self.scale else "zeros"
        self.table = self.add_weight(
            shape=(self.layout.table_rows, self.dim), initializer=initial, name=TABLE
        )

    def call(self, ids: Tensor) -> Tensor:
        """Look up the vectors of the ids."""
        rows = ids + tf.constant(self.layout.offsets)
        # Use the variable's value: gathering from a Keras variable would copy the whole table.
        vectors = tf.gather(self.table.value, rows)
        if self.l2 and self.share is not None:
            share = tf.gather(self.share, rows)
            penalty = tf.reduce_sum(tf.square(vectors) * share[..., None])
            self.add_loss(0.5 * self.l2 * penalty)
        return vectors

    def occurrences(self, counts: np.ndarray[Any, Any]) -> None:
        """Set how often each row of the table occurs in training; [table_rows]."""
        self.share = tf.constant(1 / np.maximum(counts, 1), tf.float32)


class NumberVectors(keras.layers.Layer):  # type: ignore[misc]
    """Maps floats [floats] to vectors [floats, dim]: each scales a learned vector."""

    def __init__(self, dim: int) -> None:
        super().__init__(name="number_vectors")
        self.dim = dim

    def build(self, shape: Any) -> None:
        """Create the vectors."""
        self.vectors = self.add_weight(
            shape=(shape[-1], self.dim),
            initializer=keras.initializers.RandomNormal(stddev=0.1 / math.sqrt(self.dim)),
            name="vectors",
        )

    def call(self, numbers: Tensor) -> Tensor:
        """Multiply each learned vector by its float."""
        return tf.expand_dims(numbers, -1) * self.vectors


class BlankingLayer(keras.layers.Layer):  # type: ignore[misc]
    """Blanks the training-only inputs of some training rows, so that the model learns the blank."""

    def __init__(self, layout: Layout) -> None:
        super().__init__(name="forget")
        self.ids = _keep(layout.training_only_places, len(layout.offsets), np.int32)
        self.numbers = _keep(layout.training_only_numbers, len(layout.numbers), np.float32)
        self.any = bool(len(layout.training_only_places) + len(layout.training_only_numbers))
        self.seeds = keras.random.SeedGenerator() if self.any else None

    def call(self, ids: Tensor, numbers: Tensor, training: bool = False) -> tuple[Tensor, Tensor]:
        """Blank some rows in training; pass inputs through otherwise."""
        if not (training and self.any):
            return ids, numbers
        draw = keras.random.uniform((tf.shape(ids)[0], 1), seed=self.seeds)
        keep = tf.cast(draw >= FORGET, tf.float32)
        return (
            ids * tf.maximum(self.ids, tf.cast(keep, tf.int32)),
            numbers * tf.maximum(self.numbers, keep),
        )

    def compute_output_spec(self, ids: Tensor, numbers: Tensor, training: bool = False) -> Any:
        """Return the unchanged shapes and dtypes."""
        return keras.KerasTensor(ids.shape, ids.dtype), keras.KerasTensor(
            numbers.shape, numbers.dtype
        )


def _keep(places: np.ndarray[Any, Any], size: int, dtype: Any) -> np.ndarray[Any, Any]:
    mask = np.ones((1, size), dtype)
    mask[:, places] = 0
    return mask
