"""Wide & Deep Learning for Recommender Systems, Cheng et al., 2016 (arXiv 1606.07792)."""

from __future__ import annotations

from nightbid.models.fields import Fields, Tensor
from nightbid.models.layers import logit, mlp
from nightbid.models.registry import architecture


@architecture
def wide_and_deep(
    fields: Fields,
    *,
    hidden: tuple[int, ...] = (128, 64),
    dropout: float = 0.0,
    l2: float = 5.0,
) -> Tensor:
    """Build a linear and a deep model, trained jointly; define crosses as features of the pipeline.

    Args:
        fields: Model inputs.
        hidden: Units of each deep layer.
        dropout: Dropout rate after each deep layer.
        l2: Strength of a penalty: ½·l2·w² per wide weight is added to the summed log loss of all
            training rows.

    Returns:
        Logits, [rows, 1].
    """
    return fields.linear_with(l2) + logit(mlp(fields.flat, hidden, dropout=dropout))
