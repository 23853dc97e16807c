"""The plain deep network on embeddings: the baseline of every paper below."""

from __future__ import annotations

from nightbid.models.fields import Fields, Tensor
from nightbid.models.layers import logit, mlp
from nightbid.models.registry import architecture


@architecture
def deep(fields: Fields, *, hidden: tuple[int, ...] = (128, 64), dropout: float = 0.0) -> Tensor:
    """Build dense layers on all embeddings and floats, side by side.

    Args:
        fields: the model inputs.
        hidden: units of the layers.
        dropout: after each of them.

    Returns:
        Logits, [rows, 1].
    """
    return logit(mlp(fields.flat, hidden, dropout=dropout))
