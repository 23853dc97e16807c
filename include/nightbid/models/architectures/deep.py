"""The plain deep network on embeddings, which papers on other architectures use as a baseline."""

from __future__ import annotations

from nightbid.models.fields import Fields, Tensor
from nightbid.models.layers import logit, mlp
from nightbid.models.registry import architecture


@architecture
def deep(fields: Fields, *, hidden: tuple[int, ...] = (128, 64), dropout: float = 0.0) -> Tensor:
    """Build dense layers on the concatenation of all embeddings and floats.

    Args:
        fields: Model inputs.
        hidden: Units of each layer.
        dropout: Dropout rate after each layer.

    Returns:
        Logits, [rows, 1].
    """
    return logit(mlp(fields.flat, hidden, dropout=dropout))
