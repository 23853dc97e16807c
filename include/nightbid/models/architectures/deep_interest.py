"""Deep Interest Network, Zhou et al., KDD 2018 (arXiv 1706.06978)."""

from __future__ import annotations

import keras
from keras import ops

from nightbid.models.fields import Fields, Tensor
from nightbid.models.layers import logit, mlp
from nightbid.models.registry import architecture


@architecture
def deep_interest(
    fields: Fields,
    *,
    attention: tuple[int, ...] = (32,),
    hidden: tuple[int, ...] = (128, 64),
    dropout: float = 0.0,
) -> Tensor:
    """Weight the items of a user's history by their relevance to the candidate.

    A sequence attends to the candidate, which is the id input with the same vocabulary. A sequence
    without a candidate is averaged, as in the other architectures.

    Args:
        fields: Model inputs.
        attention: Units of each hidden layer of the network that compares an item with the
            candidate.
        hidden: Units of each deep layer.
        dropout: Dropout rate after each deep layer.

    Returns:
        Logits, [rows, 1].
    """
    interests = []
    for lookup in fields.layout.lookups:
        candidates = [
            other
            for other in fields.layout.lookups
            if other.kind == "id" and lookup.vocabulary and other.vocabulary == lookup.vocabulary
        ]
        if lookup.kind == "sequence" and candidates:
            items, mask = fields.sequence(lookup)
            interests.append(_interest(items, mask, fields.vector(candidates[0]), attention))
    return logit(mlp(ops.concatenate([fields.flat, *interests], axis=-1), hidden, dropout=dropout))


def _interest(items: Tensor, mask: Tensor, candidate: Tensor, units: tuple[int, ...]) -> Tensor:
    """Sum the items weighted by their activation a(item, candidate), unnormalized (equation 3)."""
    repeated = ops.repeat(ops.expand_dims(candidate, 1), items.shape[1], axis=1)
    pairs = ops.concatenate([items, repeated, items - repeated, items * repeated], axis=-1)
    weights = keras.layers.Dense(1)(mlp(pairs, units))  # [length, 1]
    return ops.sum(items * weights * ops.expand_dims(mask, -1), axis=1)
