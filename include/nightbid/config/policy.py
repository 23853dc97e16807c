"""What choosing by the models' predictions would have brought: the typed `policy` block."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from nightbid.config.base import Block


class Policy(Block):
    """Estimate the label rate if the models had chosen the items, from logs with propensities.

    Stage `replay` scores every item that could have been shown on each evaluate row and corrects
    by `columns.propensity` (off-policy evaluation), for the candidate and the champion.
    """

    kind: Literal["softmax", "greedy"] = "softmax"
    """`softmax`: an item is shown with probability in proportion to exp(log odds / temperature).
    `greedy`: the item with the highest prediction is, and any item with probability `epsilon`."""
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Of `softmax`: below 1 it prefers the best items more."""
    epsilon: float = Field(default=0.1, ge=0, le=1)
    """Of `greedy`: share of impressions whose item is drawn uniformly."""
    item_columns: tuple[str, ...] | None = None
    """Columns that belong to the item besides `columns.item`, such as its advertiser; with another
    item they get that item's latest values. Default: those that features read and that have one
    value per item in all evaluate rows of a day."""
    most_rows: int = Field(default=50_000, ge=100)
    """Evaluate rows to use; of more, a fixed sample by key."""
    switch: float = Field(default=10.0, gt=0)
    """Switch-DR trusts the prediction alone where the weight is larger."""
    shrinkage: float = Field(default=100.0, gt=0)
    """λ of DR with optimistic shrinkage."""
    least_rows: float = Field(default=50.0, gt=0)
    """Least effective sample size; below it nothing is estimated, and the reason is given."""
