"""The refitted model beside the judged one: what is measured, and what its gate says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from nightbid.config.gates import Gates
from nightbid.config.models import Train
from nightbid.gates.measurements import Measurements
from nightbid.gates.serving import _refit
from nightbid.training.refit import _is_held, compare
from pydantic import ValidationError


def held(factor: float = 1.0, noise: float = 0.0, rows: int = 4000) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    true = rng.beta(2, 20, rows)
    labels = (rng.random(rows) < true).astype(float)
    odds = np.log(true / (1 - true)) + noise * rng.normal(size=rows) + np.log(factor)
    return compare(
        true, 1 / (1 + np.exp(-odds)), labels=labels, weights=np.ones(rows),
        users=rng.integers(0, 900, rows),
    )  # fmt: skip


def judged(found: dict[str, Any]) -> dict[str, str]:
    measurements = Measurements()
    _refit(measurements, found)
    limits = Gates().serving
    said = {}
    for each in measurements:
        limit = getattr(limits, each.family)
        low, high = limit.stop
        stops = (low is not None and each.value < low) or (high is not None and each.value > high)
        said[each.family] = "stop" if stops else "pass"
    return said


def test_the_same_model_again_passes() -> None:
    found = held()
    assert list(found["difference"].values()) == pytest.approx([0, 0, 0], abs=1e-12)
    assert found["agreement"] == pytest.approx(1)
    assert found["mean_ratio"] == pytest.approx(1)
    assert set(judged(found).values()) == {"pass"}


@pytest.mark.parametrize(
    ("change", "stopped"),
    [
        ({"factor": 2.0}, {"refit_loss", "refit_calibration", "refit_mean"}),
        ({"noise": 1.5}, {"refit_loss", "refit_calibration", "refit_mean", "refit_agreement"}),
    ],
)
def test_a_refitted_model_that_went_wrong_is_stopped(
    change: dict[str, float], stopped: set[str]
) -> None:
    said = judged(held(**change))
    assert {name for name, each in said.items() if each == "stop"} == stopped


def test_a_tenth_of_the_users_is_held_back_whole() -> None:
    users = np.random.default_rng(1).integers(-(2**62), 2**62, 50_000)
    out = _is_held(users)
    assert 0.09 < out.mean() < 0.11
    assert (_is_held(users[::-1]) == out[::-1]).all()


@pytest.mark.parametrize(
    ("other", "value", "said"),
    [
        ("mode", "warm", "refit and mode: warm"),
        ("mode", "incremental", "refit and mode: incremental"),
        ("sampling_correction", True, "train.sampling_correction"),
    ],
)
def test_what_cannot_be_refitted_is_refused(other: str, value: object, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Train.model_validate({"refit": True, other: value})
