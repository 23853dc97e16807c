"""Factorization Machines, Rendle, ICDM 2010."""

from __future__ import annotations

from nightbid.models.fields import Fields, Tensor
from nightbid.models.layers import Bias, pairwise
from nightbid.models.registry import architecture


@architecture
def factorization_machine(fields: Fields, *, l2: float = 5.0) -> Tensor:
    """Build w0 + Σ wᵢ·xᵢ + Σᵢ<ⱼ <vᵢ, vⱼ>·xᵢ·xⱼ (equation 1).

    Args:
        fields: Model inputs.
        l2: Strength of a penalty: ½·l2·w² per first-order weight is added to the summed log loss
            of all training rows.

    Returns:
        Logits, [rows, 1].
    """
    return Bias(name="bias")(fields.linear_with(l2) + pairwise(fields.vectors))
