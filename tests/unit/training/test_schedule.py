"""Tests the learning-rate schedule and the rates that a training actually uses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nightbid.config.models import Train
from nightbid.training.loop import share_of_rate

SCHEDULES = ("constant", "linear", "cosine")


@given(
    schedule=st.sampled_from(SCHEDULES), warmup=st.floats(0.01, 0.9), one=st.floats(0, 1),
    other=st.floats(0, 1),
)  # fmt: skip
def test_the_learning_rate_rises_only_during_warmup(schedule, warmup, one, other):
    settings = Train(schedule=schedule, warmup=warmup)
    early, late = sorted((one, other))
    first, second = share_of_rate(settings, early), share_of_rate(settings, late)
    assert 0 <= first <= 1
    if late < warmup:
        assert first <= second
    if early >= warmup:
        assert first >= second
        assert schedule != "constant" or first == 1


def test_learning_rates_match_hand_computed_values():
    def shares(**settings):
        train = Train(**settings)
        return [share_of_rate(train, quarter / 4) for quarter in range(4)]

    assert shares(schedule="linear") == [1, 0.75, 0.5, 0.25]
    assert shares(schedule="cosine") == pytest.approx([1, 0.85355, 0.5, 0.14645], abs=1e-5)
    assert shares(schedule="constant", warmup=0.5) == [0, 0.5, 1, 1]
    assert shares(schedule="linear", warmup=0.5) == [0, 0.5, 1, 0.5]
