"""ESMM: Entire Space Multi-Task Model, Ma et al., SIGIR 2018 (arXiv 1804.07931)."""

from __future__ import annotations

from keras import ops

from nightbid.models.fields import Fields, Tensor
from nightbid.models.layers import logit, mlp
from nightbid.models.registry import architecture


@architecture(multi_task=True)
def esmm(fields: Fields, *, hidden: tuple[int, ...] = (128, 64), dropout: float = 0.0) -> Tensor:
    """Stand a tower for clicks and one for conversions after a click on shared embeddings.

    The tower of conversions is never fitted on clicked rows alone: p(click) and the product
    p(click) · p(conversion | click) are, over all impressions (equation 4).

    Args:
        fields: the model inputs.
        hidden: units of the layers of each tower.
        dropout: of each tower.

    Returns:
        Logits of both, [rows, 2].
    """
    towers = [
        logit(mlp(fields.flat, hidden, dropout=dropout), name=name)
        for name in ("given_logit", "label_logit")
    ]
    return ops.concatenate(towers, axis=-1)
