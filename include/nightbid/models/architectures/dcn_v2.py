"""DCN-V2: Improved Deep & Cross Network, Wang et al., WWW 2021 (arXiv 2008.13535)."""

from __future__ import annotations

import keras
from keras import ops

from nightbid.models.fields import Fields, Tensor
from nightbid.models.layers import logit, mlp
from nightbid.models.registry import architecture


@architecture
def dcn_v2(
    fields: Fields,
    *,
    cross_layers: int = 2,
    rank: int | None = 32,
    hidden: tuple[int, ...] = (64, 32),
    dropout: float = 0.0,
) -> Tensor:
    """Build a cross network and a deep network on the same inputs (the parallel structure).

    Args:
        fields: Model inputs.
        cross_layers: Number of cross layers; the highest order of crosses is one more.
        rank: Rank of the cross matrices W = U·V; null gives full matrices.
        hidden: Units of each deep layer.
        dropout: Dropout rate after each deep layer.

    Returns:
        Logits, [rows, 1].
    """
    x0 = fields.flat
    x = x0
    for _ in range(cross_layers):
        x = x0 * _linear(x, rank) + x  # equation 1: x0 ⊙ (W·x + b) + x
    deep = mlp(x0, hidden, dropout=dropout)
    return logit(ops.concatenate([x, deep], axis=-1))


def _linear(x: Tensor, rank: int | None) -> Tensor:
    size = x.shape[-1]
    if rank is not None:
        x = keras.layers.Dense(rank, use_bias=False)(x)
    return keras.layers.Dense(size)(x)
