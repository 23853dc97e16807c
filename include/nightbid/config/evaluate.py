"""How candidate and champion are compared: the typed `evaluate` block."""

from __future__ import annotations

from pydantic import Field

from nightbid.config.base import Block


class Evaluate(Block):
    """The metrics, intervals and slices of an evaluation, and its verdict.

    The verdict is on normalised entropy, candidate less reference, with a paired 95 % interval
    over users: *better* when the whole interval is below 0; *worse* when it is above 0 and the
    difference exceeds `margin_ne`; else *neutral*.
    """

    slices: tuple[str, ...] = ()
    """Columns of the logs; numbers of many values are cut at their quintiles."""
    slice_values: int = Field(default=10, ge=1)
    """Most frequent values of a column that get a slice of their own; the rest share one."""
    bootstrap: int = Field(default=200, ge=0)
    """Replicates; each draws a Poisson(1) weight per user."""
    margin_ne: float = Field(default=0.002, ge=0)
    """How much normalised entropy a neutral candidate may lose."""
    ndcg_k: int = Field(default=10, ge=1)
    """Length of the ranked list; a list is one user's rows of one day."""
    keep_scores: bool = True
    """Keep each row's scores, so that later runs can be compared pair by pair."""
