"""Off-policy evaluation of choosing items by the predictions: the typed `policy` block."""

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
    """How a model chooses an item. `softmax`: with probability proportional to
    exp(log odds / temperature). `greedy`: the item with the highest prediction, or with probability
    `epsilon` a uniformly drawn item."""
    temperature: float = Field(default=1.0, gt=0)
    """With `kind: softmax`: temperature; lower values favor the best items more."""
    epsilon: float = Field(default=0.1, ge=0, le=1)
    """With `kind: greedy`: share of impressions with a uniformly drawn item."""
    item_columns: tuple[str, ...] | None = None
    """Columns that describe the item, in addition to `columns.item`, such as its advertiser. When
    another item is scored, they take that item's latest values. Default: columns that features read
    and that have one value per item in all evaluate rows of a day."""
    most_rows: int = Field(default=50_000, ge=100)
    """Maximum number of evaluate rows to use; if there are more, a fixed sample by key."""
    switch: float = Field(default=10.0, gt=0)
    """Threshold of Switch-DR: above this importance weight only the predicted value is used."""
    shrinkage: float = Field(default=100.0, gt=0)
    """λ of DR with optimistic shrinkage."""
    least_rows: float = Field(default=50.0, gt=0)
    """Minimum effective sample size; below it there is no estimate, only the reason for that."""
