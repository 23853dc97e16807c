"""How candidate and champion are compared: the typed `evaluate` block."""

from __future__ import annotations

from pydantic import Field

from nightbid.config.base import Block


class Evaluate(Block):
    """The metrics, intervals and slices of an evaluation, and its verdict.

    The verdict depends on normalized entropy, candidate minus reference, with a paired 95%
    interval over users: *better* if the whole interval is below 0; *worse* if it is above 0 and the
    difference exceeds `margin_ne`; *neutral* if it is below `margin_ne`; otherwise *undecided*, and
    the champion stays. A better or neutral candidate whose AUC is significantly lower, by more than
    `margin_auc`, is *mixed* and is not promoted either. With value labels, normalized deviance
    replaces normalized entropy, and the Gini coefficient replaces the AUC.
    """

    slices: tuple[str, ...] = ()
    """Columns of the logs to slice by; numeric columns are split at their quintiles."""
    slice_values: int = Field(default=10, ge=1)
    """Number of most frequent values that get their own slice; all other values share one."""
    bootstrap: int = Field(default=200, ge=0)
    """Number of bootstrap replicates for intervals; each draws a Poisson(1) weight per user."""
    margin_ne: float = Field(default=0.002, ge=0)
    """Upper bound on the loss in normalized entropy of a neutral candidate: its whole interval is
    below this value."""
    margin_auc: float = Field(default=0.005, ge=0)
    """Largest significant loss in AUC at which a candidate is still promoted."""
    margin_deviance: float = Field(default=0.005, ge=0)
    """With `label.kind: value`, replaces `margin_ne`: upper bound on the loss in normalized
    deviance of a neutral candidate."""
    margin_gini: float = Field(default=0.01, ge=0)
    """With `label.kind: value`, replaces `margin_auc`: largest significant loss in the normalized
    Gini coefficient at which a candidate is still promoted."""
    ratchet_nights: int = Field(default=7, ge=0, le=3660)
    """Number of previous nights. A neutral candidate is also compared with the best champion of
    these nights, on the same rows, so that small losses do not add up. 0: it is compared with the
    current champion only."""
    ndcg_k: int = Field(default=10, ge=1)
    """Cutoff of NDCG; a ranked list is one user's rows of one day."""
    memory_gb: float | None = Field(default=None, gt=0)
    """Gigabytes of memory for the evaluation. A row takes about 400 bytes; a user takes 300 bytes,
    and one byte per replicate of `bootstrap`. If all rows do not fit, a share of the users is
    evaluated, each with all of their rows; a hash chooses the same users every night. Default: half
    of the memory of the machine or container."""
    keep_scores: bool = True
    """Whether to store the scores of each row, so that later runs can be compared on the same
    rows. `replay` needs them."""
