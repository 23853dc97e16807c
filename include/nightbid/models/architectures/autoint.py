"""AutoInt: Feature Interaction Learning via Self-Attention, Song et al., CIKM 2019 (1810.11921)."""

from __future__ import annotations

import keras
from keras import ops

from nightbid.models.fields import Fields, Tensor
from nightbid.models.layers import logit, mlp
from nightbid.models.registry import architecture


@architecture
def autoint(
    fields: Fields,
    *,
    layers: int = 2,
    heads: int = 2,
    size: int = 16,
    hidden: tuple[int, ...] = (128, 64),
    dropout: float = 0.0,
) -> Tensor:
    """Build self-attention layers over all fields and a parallel deep network (AutoInt+).

    Args:
        fields: Model inputs.
        layers: Number of attention layers.
        heads: Number of heads per layer.
        size: Units per head.
        hidden: Units of each deep layer; empty gives the plain AutoInt.
        dropout: Dropout rate after each deep layer.

    Returns:
        Logits, [rows, 1].
    """
    x = fields.vectors
    for _ in range(layers):
        x = _interact(x, heads, size)
    parts = [ops.reshape(x, (-1, x.shape[1] * x.shape[2]))]
    if hidden:
        parts.append(mlp(fields.flat, hidden, dropout=dropout))
    return logit(ops.concatenate(parts, axis=-1))


def _interact(x: Tensor, heads: int, size: int) -> Tensor:
    """Apply attention over fields (equations 5 to 8): [fields, d] to [fields, heads * size]."""

    def split(wide: Tensor) -> Tensor:
        return ops.transpose(ops.reshape(wide, (-1, x.shape[1], heads, size)), (0, 2, 1, 3))

    query, key, value = (
        split(keras.layers.Dense(heads * size, use_bias=False)(x)) for _ in range(3)
    )
    alike = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))
    mixed = ops.matmul(ops.softmax(alike, axis=-1), value)
    joined = ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), (-1, x.shape[1], heads * size))
    return ops.relu(joined + keras.layers.Dense(heads * size, use_bias=False)(x))
