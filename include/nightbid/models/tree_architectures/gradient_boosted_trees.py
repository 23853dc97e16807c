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
    """Choose LightGBM's parameters.

    Args:
        trees: at most; fewer if validation stops improving.
        leaves: of each tree.
        learning_rate: of boosting; `train.learning_rate` is for networks.
        min_rows: in each leaf.
        l2: on leaf values.
        input_share: Share of the inputs drawn for each tree.
        patience: trees without improvement before the end.

    Returns:
        LightGBM parameters; `num_iterations` and `early_stopping_round` among them.
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
