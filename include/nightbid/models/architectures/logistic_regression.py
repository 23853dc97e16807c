"""Logistic regression: one weight per id and per number, with an L2 penalty."""

from __future__ import annotations

from nightbid.models.fields import Fields, Tensor
from nightbid.models.layers import Bias
from nightbid.models.registry import architecture


@architecture(step_scale=10.0)
def logistic_regression(fields: Fields, *, l2: float = 5.0) -> Tensor:
    """Build w·x + b.

    Args:
        fields: Model inputs.
        l2: Strength of a penalty: ½·l2·w² per weight is added to the summed log loss of all
            training rows.

    Returns:
        Logits, [rows, 1].
    """
    return Bias(name="bias")(fields.linear_with(l2))
