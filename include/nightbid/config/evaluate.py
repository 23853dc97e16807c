"""How candidate and champion are compared: the typed `evaluate` block."""

from __future__ import annotations

from pydantic import Field

from nightbid.config.base import Block


class Evaluate(Block):
    """The metrics, intervals and slices of an evaluation, and its verdict.

    The verdict is on normalized entropy, candidate minus reference, with a paired 95 % interval
    over users: *better* when the whole interval is below 0; *worse* when it is above 0 and the
    difference exceeds `margin_ne`; *neutral* when it is below `margin_ne`; else *undecided*, and
    the champion stays. A better or neutral candidate whose AUC is significantly lower, by more than
    `margin_auc`, is *mixed*, and not promoted either. With value labels the verdict is on the
    normalized deviance, and the Gini coefficient takes the place of the AUC.
    """

    slices: tuple[str, ...] = ()
    """Columns of the logs to slice by; numeric columns are cut at their quintiles."""
    slice_values: int = Field(default=10, ge=1)
    """Number of most frequent values that get their own slice; the others share one."""
    bootstrap: int = Field(default=200, ge=0)
    """Number of bootstrap replicates for intervals; each draws a Poisson(1) weight per user."""
    margin_ne: float = Field(default=0.002, ge=0)
    """Loss in normalized entropy that the interval of a neutral candidate excludes."""
    margin_auc: float = Field(default=0.005, ge=0)
    """Largest significant loss in AUC with which a candidate is still promoted."""
    margin_deviance: float = Field(default=0.005, ge=0)
    """With `label.kind: value`: loss in normalized deviance that the interval of a neutral
    candidate excludes; it takes the place of `margin_ne`."""
    margin_gini: float = Field(default=0.01, ge=0)
    """With `label.kind: value`: largest significant loss in the normalized Gini coefficient with
    which a candidate is still promoted; it takes the place of `margin_auc`."""
    ratchet_nights: int = Field(default=7, ge=0, le=3660)
    """A neutral candidate is also compared with the best champion of this many nights before, on
    the same rows, so that small losses do not add up; 0: only with the present champion."""
    ndcg_k: int = Field(default=10, ge=1)
    """Cutoff of NDCG; a ranked list is one user's rows of one day."""
    memory_gb: float | None = Field(default=None, gt=0)
    """Gigabytes that the evaluate rows may take in memory, some 400 bytes each. Of more rows a
    share of the users is evaluated, each with all rows: the same users every night, chosen by a
    hash. Default: half of the machine's memory, or of the container's."""
    keep_scores: bool = True
    """Store each row's scores, so that later runs can be compared on the same rows."""
