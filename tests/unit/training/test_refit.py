"""The refitted model is compared with the judged one: measurements and the gate's verdict."""

from __future__ import annotations

import re
from collections.abc import Set
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nightbid.config.gates import Gates
from nightbid.config.models import Train
from nightbid.config.pipeline import Night, PipelineSpec
from nightbid.gates.judge import judge
from nightbid.gates.measurements import Measurements
from nightbid.gates.serving import _refit
from nightbid.serving.refitted import fingerprint, refits, why_judged
from nightbid.training.refit import _is_held, compare
from pydantic import ValidationError

NIGHT = date(2026, 1, 8)


def compare_refit(factor: float = 1.0, noise: float = 0.0, rows: int = 4000) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    true = rng.beta(2, 20, rows)
    labels = (rng.random(rows) < true).astype(float)
    odds = np.log(true / (1 - true)) + noise * rng.normal(size=rows) + np.log(factor)
    return compare(
        true, 1 / (1 + np.exp(-odds)), labels=labels, weights=np.ones(rows),
        users=rng.integers(0, 900, rows),
    )  # fmt: skip


def verdicts_of(found: dict[str, Any]) -> dict[str, str]:
    measurements = Measurements()
    _refit(measurements, found)
    limits = Gates().serving
    verdicts = {}
    for measurement in measurements:
        limit = getattr(limits, measurement.family)
        low, high = limit.stop
        stops = (low is not None and measurement.value < low) or (
            high is not None and measurement.value > high
        )
        verdicts[measurement.family] = "stop" if stops else "pass"
    return verdicts


def test_a_refit_equal_to_the_judged_model_passes() -> None:
    comparison = compare_refit()
    assert list(comparison["difference"].values()) == pytest.approx([0, 0, 0], abs=1e-12)
    assert comparison["agreement"] == pytest.approx(1)
    assert comparison["mean_ratio"] == pytest.approx(1)
    assert set(verdicts_of(comparison).values()) == {"pass"}


@pytest.mark.parametrize(
    ("change", "stopped"),
    [
        ({"factor": 2.0}, {"refit_loss", "refit_calibration", "refit_mean"}),
        ({"noise": 1.5}, {"refit_loss", "refit_calibration", "refit_mean", "refit_agreement"}),
    ],
)
def test_a_bad_refit_is_stopped(change: dict[str, float], stopped: set[str]) -> None:
    verdicts = verdicts_of(compare_refit(**change))
    assert {name for name, verdict in verdicts.items() if verdict == "stop"} == stopped


def test_the_judged_model_serves_after_a_bad_refit() -> None:
    gates, wrong = Gates(), compare_refit(factor=2.0)
    assert why_judged(compare_refit(), gates, NIGHT) == ""
    why = why_judged(wrong, gates, NIGHT)
    assert re.fullmatch(
        r"the refitted model's refit_loss is 0\.\d+, expected ≤ 0.01 \(0\.\d+, judged 0\.\d+,"
        r" on 4,000 held-out rows with \d+ positives\)",
        why,
    )
    # Bands and overrides apply to the choice of the model as they do to the gate.
    wide = {"gate": "serving", "stop": [0, 9], "why": "tests"}
    names = ("refit_loss", "refit_calibration", "refit_mean")
    banded = Gates.model_validate({"bands": [{**wide, "statistic": name} for name in names]})
    assert why_judged(wrong, banded, NIGHT) == ""
    override = {"gate": "serving", "check": "refit_*", "name": "tests", "reason": "known to differ"}
    live = Gates.model_validate({"overrides": [{**override, "until": NIGHT}]})
    over = Gates.model_validate({"overrides": [{**override, "until": NIGHT - timedelta(1)}]})
    assert why_judged(wrong, live, NIGHT) == ""
    assert why_judged(wrong, over, NIGHT) == why


@pytest.mark.parametrize(
    ("statistic", "few", "many"),
    [
        # One model saw 20 positives, the other 30: their rates differ by half by chance.
        ("refit_mean", {"mean_ratio": 1.5, "positives": [20, 30]}, {"positives": [2000, 3000]}),
        ("refit_agreement", {"agreement": 0.5, "held_users": 40}, {"held_users": 4000}),
    ],
)
def test_refit_checks_allow_chance_on_few_rows(
    statistic: str, few: dict[str, Any], many: dict[str, Any]
) -> None:
    comparison = {**compare_refit(), **few}
    assert why_judged(comparison, Gates(), NIGHT) == ""
    assert f"{statistic} is " in why_judged({**comparison, **many}, Gates(), NIGHT)


def test_a_refit_that_predicts_nan_does_not_serve() -> None:
    p = np.linspace(0.1, 0.3, 40)
    comparison = compare(
        p, np.full(40, np.nan), labels=np.arange(40) % 2.0, weights=np.ones(40), users=np.arange(40)
    )
    assert "refit_calibration is nan" in why_judged(comparison, Gates(), NIGHT)


@pytest.mark.parametrize(("fallback", "verdict"), [("", "stop"), ("its loss is high", "warn")])
def test_a_fallback_only_warns_however_many_nights_it_lasts(fallback: str, verdict: str) -> None:
    comparison = {
        **compare_refit(factor=2.0),
        "automatic": True,
        **({"fallback": fallback} if fallback else {}),
    }
    measurements = Measurements()
    _refit(measurements, comparison)
    gates = Gates(warnings_expire_after=3)

    def warned(statistics: Set[str]) -> dict[str, int]:
        return dict.fromkeys(statistics, 20)

    judgment = judge("serving", measurements, gates, NIGHT, warned)
    assert judgment.verdict == verdict
    if fallback:
        assert "the judged model serves: its loss is high" in judgment.summary
        assert [check.name for check in judgment.checks] == ["refit_fallback"]


@pytest.mark.parametrize(
    ("settings", "is_refitted"),
    [
        ({}, True),
        ({"train": {"calibration": "rate"}}, True),
        ({"train": {"calibration": "isotonic"}}, False),
        ({"train": {"calibration": "platt"}}, False),
        ({"train": {"mode": "warm"}}, False),
        ({"train": {"mode": "incremental"}}, False),
        ({"train": {"sampling_correction": True}}, False),
        ({"train": {"workers": 2}}, False),
        ({"train": {"refit": False}}, False),
        ({"train": {"refit": True, "workers": 2}}, True),
        ({"label": {"column": "revenue", "kind": "value"}}, False),
        ({"model": {"architecture": "ensemble"}}, False),
    ],
)
def test_refit_defaults_depend_on_the_settings(settings: dict[str, Any], is_refitted: bool) -> None:
    spec = PipelineSpec.model_validate(
        {"pipeline": "p", "features": {"ad_id": "vocabulary"}, **settings}
    )
    assert refits(spec) is is_refitted


MANAGED_TRAINING = {
    "PROFILE": "gcp",
    "CLOUD__PROJECT": "my-project",
    "CLOUD__REGION": "us-central1",
    "CLOUD__BUCKET": "my-bucket",
    "CLOUD__TRAINING__IMAGE": "region-docker.pkg.dev/p/nightbid/nightbid:1",
}


def test_refit_is_off_by_default_with_managed_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = {"pipeline": "p", "features": {"ad_id": "vocabulary"}}
    unset = PipelineSpec.model_validate(spec)
    assert refits(unset)
    for name, value in MANAGED_TRAINING.items():
        monkeypatch.setenv(f"NIGHTBID_{name}", value)
    assert not refits(unset)
    assert refits(PipelineSpec.model_validate({**spec, "train": {"refit": True}}))


def test_only_refit_limits_change_the_key_of_the_export() -> None:
    def key(**blocks: Any) -> str:
        tree = {"pipeline": "p", "features": {"ad_id": "vocabulary"}, **blocks}
        spec = PipelineSpec.model_validate(tree)
        return fingerprint(spec, Night.of(spec, NIGHT), Path())

    tight = {"serving": {"refit_mean": {"stop": [0.9, 1.1]}}}
    assert key() == key(gates={"serving": {"p99_ms": {"stop": [None, 9]}}})
    assert key() != key(gates=tight)
    assert key(train={"refit": True}) == key(train={"refit": True}, gates=tight) == ""


def test_a_tenth_of_users_is_held_back_regardless_of_order() -> None:
    users = np.random.default_rng(1).integers(-(2**62), 2**62, 50_000)
    out = _is_held(users)
    assert 0.09 < out.mean() < 0.11
    assert (_is_held(users[::-1]) == out[::-1]).all()


@pytest.mark.parametrize(
    ("other", "value", "message"),
    [
        ("mode", "warm", "remove refit, or mode: warm"),
        ("mode", "incremental", "remove refit, or mode: incremental"),
        ("sampling_correction", True, "train.sampling_correction"),
    ],
)
def test_refit_is_rejected_with_incompatible_settings(
    other: str, value: object, message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        Train.model_validate({"refit": True, other: value})
