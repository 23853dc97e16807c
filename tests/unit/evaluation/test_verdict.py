"""Better, neutral, worse: where the lines are."""

from __future__ import annotations

import pytest
from nightbid.evaluation.verdict import judge

MARGIN = 0.002


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [
        (-0.0100, -0.0200, -0.0001, "better"),
        (-0.0100, -0.0200, 0.0, "neutral"),  # 0 is inside
        (-0.0100, -0.0200, 0.0001, "neutral"),
        (-0.0001, -0.0002, -0.00005, "better"),  # little, and surely so
        (0.0, 0.0, 0.0, "neutral"),  # the same model again
        (0.0019, 0.0010, 0.0030, "neutral"),  # surely worse, within the margin
        (0.0020, 0.0010, 0.0030, "neutral"),  # on the margin
        (0.0021, 0.0010, 0.0030, "worse"),
        (0.0021, 0.0, 0.0040, "neutral"),  # 0 is not outside
        (0.0500, -0.0001, 0.1000, "neutral"),  # beyond the margin, and not known to be
        (0.0021, None, None, "worse"),
        (0.0019, None, None, "neutral"),
        (-0.0021, None, None, "better"),
        (-0.0019, None, None, "neutral"),
        (None, None, None, "worse"),  # nothing is promoted on what is not defined
    ],
)
def test_verdict(value, low, high, verdict):
    assert judge({"value": value, "low": low, "high": high}, MARGIN) == verdict
