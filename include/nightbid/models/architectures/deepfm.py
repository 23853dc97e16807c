"""DeepFM: A Factorization-Machine based Neural Network, Guo et al., IJCAI 2017 (1703.04247)."""

from __future__ import annotations

from nightbid.models.fields import Fields, Tensor
from nightbid.models.layers import logit, mlp, pairwise
from nightbid.models.registry import architecture


@architecture
def deepfm(
    fields: Fields,
    *,
    hidden: tuple[int, ...] = (128, 64),
    dropout: float = 0.0,
    l2: float = 5.0,
) -> Tensor:
    """Build a factorization machine and a deep network that share embeddings.

    Args:
        fields: Model inputs.
        hidden: Units of each deep layer.
        dropout: Dropout rate after each deep layer.
        l2: Strength of a penalty: ½·l2·w² per first-order weight is added to the summed log loss
            of all training rows.

    Returns:
        Logits, [rows, 1].
    """
    machine = fields.linear_with(l2) + pairwise(fields.vectors)
    return machine + logit(mlp(fields.flat, hidden, dropout=dropout))
