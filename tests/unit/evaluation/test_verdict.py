"""Limits between the verdicts better, neutral, undecided, mixed and worse."""

from __future__ import annotations

import pytest
from nightbid.evaluation.verdict import explain, judge, signed

MARGIN = 0.002


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [
        (-0.0100, -0.0200, -0.0001, "better"),
        (-0.0100, -0.0200, 0.0, "neutral"),  # 0 is inside
        (-0.0100, -0.0200, 0.0001, "neutral"),
        (-0.0001, -0.0002, -0.00005, "better"),  # small but significant
        (0.0, 0.0, 0.0, "neutral"),  # the same model again
        (0.0010, 0.0005, 0.0020, "neutral"),  # significantly worse, within the margin
        (0.0019, 0.0010, 0.0030, "undecided"),  # a loss beyond the margin is not excluded
        (0.0020, 0.0010, 0.0030, "undecided"),  # on the margin
        (0.0136, -0.0002, 0.0291, "undecided"),  # a warm start that once took over as neutral
        (0.0021, 0.0010, 0.0030, "worse"),
        (0.0021, 0.0, 0.0040, "undecided"),  # 0 is not outside
        (0.0500, -0.0001, 0.1000, "undecided"),  # beyond the margin, not significant
        (0.0021, None, None, "worse"),
        (0.0019, None, None, "undecided"),
        (-0.0021, None, None, "better"),
        (-0.0019, None, None, "undecided"),
        (0.0, None, None, "neutral"),
        (None, None, None, "worse"),  # undefined metrics promote nothing
    ],
)
def test_verdict_depends_on_the_interval_and_the_margin(value, low, high, verdict):
    assert judge({"value": value, "low": low, "high": high}, MARGIN) == verdict


BETTER = {"value": -0.01, "low": -0.02, "high": -0.001}


@pytest.mark.parametrize(
    ("auc", "verdict", "text"),
    [
        ((-0.025, -0.057, -0.003), "mixed", "calibrated better, but ranks worse"),
        ((-0.025, -0.057, 0.001), "better", ""),  # not significantly lower
        (
            (-0.004, -0.005, -0.003),
            "better",
            "ranks worse",
        ),  # significantly lower, within its margin
        ((0.01, 0.005, 0.015), "better", ""),
    ],
)
def test_a_candidate_that_ranks_worse_is_mixed(auc, verdict, text):
    lower = dict(zip(("value", "low", "high"), auc, strict=True))
    assert judge(BETTER, MARGIN, lower, 0.005) == verdict
    metrics = {
        "verdict": verdict,
        "margin_ne": MARGIN,
        "difference": {"normalized_entropy": BETTER, "auc": lower},
    }
    assert text in explain(metrics)
    assert bool(explain(metrics)) == bool(text)


def test_summaries_write_a_true_minus():
    assert signed(BETTER) == "−0.0100 [−0.0200, −0.0010]"
