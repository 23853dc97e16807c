"""FinalMLP: An Enhanced Two-Stream MLP Model, Mao et al., AAAI 2023 (arXiv 2304.00902)."""

from __future__ import annotations

import keras
from keras import ops

from nightbid.errors import ConfigError
from nightbid.models.fields import Fields, Tensor
from nightbid.models.layers import mlp
from nightbid.models.registry import architecture


@architecture
def final_mlp(
    fields: Fields,
    *,
    first: tuple[int, ...] = (128, 64),
    second: tuple[int, ...] = (64, 64),
    heads: int = 4,
    gate: int = 64,
    dropout: float = 0.0,
) -> Tensor:
    """Build two networks on differently gated inputs, fused by a multi-head bilinear form.

    Args:
        fields: Model inputs.
        first: Units of each layer of the first stream; `heads` must divide the last one.
        second: Units of each layer of the second stream; `heads` must divide the last one.
        heads: Number of heads of the bilinear fusion.
        gate: Hidden units of each stream's gate.
        dropout: Dropout rate after each layer of both streams.

    Returns:
        Logits, [rows, 1].
    """
    one = mlp(_gated(fields.flat, gate), first, dropout=dropout)
    two = mlp(_gated(fields.flat, gate), second, dropout=dropout)
    return Fusion(heads, name="fusion")(one, two)


def _gated(x: Tensor, units: int) -> Tensor:
    """Multiply each input by 2σ(g(x)), which starts near 1 (equations 5 and 6, self-gated)."""
    inner = keras.layers.Dense(units, activation="relu")(x)
    return 2 * keras.layers.Dense(x.shape[-1], activation="sigmoid")(inner) * x


class Fusion(keras.layers.Layer):  # type: ignore[misc]
    """b + w₁·o₁ + w₂·o₂ + Σ over heads of o₁ₕ'·Wₕ·o₂ₕ (equations 8 and 9)."""

    def __init__(self, heads: int, name: str) -> None:
        super().__init__(name=name)
        self.heads = heads
        small = keras.initializers.RandomNormal(stddev=0.01)
        self.one = keras.layers.Dense(1, kernel_initializer=small)
        self.two = keras.layers.Dense(1, kernel_initializer=small, use_bias=False)

    def build(self, one_shape: tuple[int, ...], two_shape: tuple[int, ...]) -> None:
        """Create the bilinear forms.

        Raises:
            ConfigError: `heads` does not divide the last layer of a stream.
        """
        if one_shape[-1] % self.heads or two_shape[-1] % self.heads:
            raise ConfigError(
                f"streams of {one_shape[-1]} and {two_shape[-1]} units cannot be split into"
                f" {self.heads} heads",
                where="model.parameters.heads",
                hint="let heads divide the last units of `first` and of `second`",
            )
        self.sizes = one_shape[-1] // self.heads, two_shape[-1] // self.heads
        self.one.build(one_shape)
        self.two.build(two_shape)
        self.form = self.add_weight(
            shape=(self.heads, *self.sizes),
            initializer=keras.initializers.RandomNormal(stddev=0.01),
            name="form",
        )

    def call(self, one: Tensor, two: Tensor) -> Tensor:
        """Fuse the streams [a] and [b] into a logit [1]."""
        left = ops.reshape(one, (-1, self.heads, self.sizes[0]))
        right = ops.reshape(two, (-1, self.heads, self.sizes[1]))
        bent = ops.sum(ops.expand_dims(left, -1) * self.form, axis=2)  # [heads, b / heads]
        joint = ops.sum(bent * right, axis=(1, 2))
        return self.one(one) + self.two(two) + ops.expand_dims(joint, -1)

    def compute_output_shape(
        self, one_shape: tuple[int | None, ...], two_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        """Return the shape of one number per row."""
        return (one_shape[0], 1)
