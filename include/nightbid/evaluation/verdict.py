"""Better, neutral or worse: what a difference and its interval amount to."""

from __future__ import annotations

from typing import Literal

from nightbid.evaluation.bootstrap import Difference

Verdict = Literal["better", "neutral", "worse"]


def judge(entropy: Difference, margin: float) -> Verdict:
    """Judge a candidate by its normalised entropy less the reference's.

    *better*: the whole interval is below 0. *worse*: the whole interval is above 0 and the
    difference exceeds the margin. *neutral*: all else. Without an interval (a single user) the
    difference alone decides, and what is not defined is worse: nothing is promoted on it.

    Args:
        entropy: difference of normalised entropy, candidate less reference.
        margin: how much a neutral candidate may lose.
    """
    value, low, high = entropy["value"], entropy["low"], entropy["high"]
    if value is None:
        return "worse"
    if value < 0 and (high is None or high < 0):
        return "better" if high is not None or value < -margin else "neutral"
    if value > margin and (low is None or low > 0):
        return "worse"
    return "neutral"
