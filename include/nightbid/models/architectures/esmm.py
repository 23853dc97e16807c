"""ESMM: Entire Space Multi-Task Model, Ma et al., SIGIR 2018 (arXiv 1804.07931)."""

from __future__ import annotations

from keras import ops

from nightbid.models.fields import Fields, Tensor
from nightbid.models.layers import logit, mlp
from nightbid.models.registry import architecture


@architecture(multi_task=True)
def esmm(fields: Fields, *, hidden: tuple[int, ...] = (128, 64), dropout: float = 0.0) -> Tensor:
    """Build a tower for clicks and one for conversions after a click, on shared embeddings.

    The conversion tower is never fitted on clicked rows alone: the losses are those of p(click) and
    of the product p(click) · p(conversion | click), over all impressions (equation 4).

    Args:
        fields: Model inputs.
        hidden: Units of each layer of a tower.
        dropout: Dropout rate after each layer of a tower.

    Returns:
        Logits of both towers, [rows, 2].
    """
    towers = [
        logit(mlp(fields.flat, hidden, dropout=dropout), name=name)
        for name in ("given_logit", "label_logit")
    ]
    return ops.concatenate(towers, axis=-1)
