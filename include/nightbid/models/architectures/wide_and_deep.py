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
    """Build a linear model and a deep one, trained together; crosses are features of the pipeline.

    Args:
        fields: the model inputs.
        hidden: units of the deep layers.
        dropout: of the deep layers.
        l2: ½·l2·w² per wide weight is added to the log loss of all training rows.

    Returns:
        Logits, [rows, 1].
    """
    return fields.linear_with(l2) + logit(mlp(fields.flat, hidden, dropout=dropout))
