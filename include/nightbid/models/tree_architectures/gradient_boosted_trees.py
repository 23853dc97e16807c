"""Gradient-boosted trees: LightGBM, Ke et al., NeurIPS 2017."""

from __future__ import annotations

from typing import Any

from nightbid.models.registry import architecture


@architecture
def gradient_boosted_trees(
    *,
    trees: int = 400,
    leaves: int = 31,
    learning_rate: float = 0.05,
    min_rows: int = 100,
    l2: float = 10.0,
    input_share: float = 0.7,
    patience: int = 20,
) -> dict[str, Any]:
    """Return LightGBM's parameters.

    Args:
        trees: Maximum number of trees; fewer if validation stops improving.
        leaves: Maximum number of leaves per tree.
        learning_rate: Learning rate of boosting; `train.learning_rate` is for networks.
        min_rows: Minimum number of rows per leaf.
        l2: Strength of the L2 penalty on leaf values.
        input_share: Share of the inputs drawn for each tree.
        patience: Number of trees without improvement before training stops.

    Returns:
        LightGBM parameters, including `num_iterations` and `early_stopping_round`.
    """
    return {
        "num_iterations": trees,
        "num_leaves": leaves,
        "learning_rate": learning_rate,
        "min_data_in_leaf": min_rows,
        "lambda_l2": l2,
        "feature_fraction": input_share,
        "early_stopping_round": patience,
    }
