"""The model gate: losses beyond chance stop, others warn, and few rows stop nothing."""

from __future__ import annotations

from datetime import date

import pytest
from nightbid.config.pipeline import PipelineSpec
from nightbid.gates import model
from nightbid.sweep.seed_variance import model_digest

NEWEST = date(2026, 1, 20)


def evaluation(**changes):
    good = {"auc": 0.7, "pr_auc": 0.2, "log_loss": 0.3, "normalized_entropy": 0.9,
            "calibration": 1.02, "ece": 0.005, "gauc": 0.6}  # fmt: skip
    apart = {"value": -0.01, "low": -0.02, "high": -0.001}
    return {
        "verdict": "better", "reference": "baseline", "rows": 10_000, "positives": 1000,
        "candidate": good, "champion": None, "baseline": {**good, "normalized_entropy": 0.92},
        "constant": {**good, "auc": 0.5, "normalized_entropy": 1.0},
        "difference": {"normalized_entropy": apart, "auc": apart, "log_loss": apart},
        "slices": [{"column": "platform", "value": "ios", "rows": 3000, "candidate": good,
                    "reference": good, "difference": {"normalized_entropy": apart}}],
        "oracle": None, "intervals": {},
    } | changes  # fmt: skip


def loss(value, error=0.00102):
    """Return a difference of normalized entropy with its interval."""
    half = 1.96 * error
    low, high = (None, None) if value is None else (value - half, value + half)
    return {"normalized_entropy": {"value": value, "low": low, "high": high}}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"verdict": "worse", "difference": loss(0.02)}, "entropy_loss"),
        ({"verdict": "worse", "difference": loss(None)}, "entropy_loss"),
        ({"candidate": {**evaluation()["candidate"], "calibration": 1.9}}, "calibration"),
        ({"candidate": {**evaluation()["candidate"], "auc": float("nan")}}, "metrics_not_finite"),
        ({"candidate": {**evaluation()["candidate"], "normalized_entropy": 1.1}}, "constant"),
    ],
)
def test_the_model_gate_stops_losses_and_invalid_metrics(gate, changes, reason):
    outcome = gate(model, {"evaluate": evaluation(**changes)})
    assert outcome.verdict == ("stop" if reason else "pass"), outcome.summary
    assert reason in outcome.summary


# The second is a clean night: the gate assumes a seed standard deviation of 0.001.
@pytest.mark.parametrize("difference", [loss(0.003), loss(0.0104, error=0.0021)])
def test_a_model_that_is_worse_within_chance_warns(gate, difference):
    changes = {"verdict": "worse", "difference": difference}
    outcome = gate(model, {"evaluate": evaluation(**changes)})
    assert outcome.verdict == "warn"
    assert "worse_than_reference" in outcome.summary


@pytest.mark.parametrize(("low", "verdict"), [(None, "pass"), (0.06, "stop")])
def test_a_slice_without_an_interval_does_not_stop_the_model_gate(gate, low, verdict):
    """Most bootstrap replicates have no row of the slice, so there is no interval."""
    (part,) = evaluation()["slices"]
    loses = {"value": 0.065, "low": low, "high": low and 0.07}
    part = {**part, "difference": {"normalized_entropy": loses}}
    outcome = gate(model, {"evaluate": evaluation(slices=[part])})
    assert outcome.verdict == verdict, outcome.summary


def test_a_candidate_that_ranks_worse_warns(gate):
    """A better normalized entropy says nothing about the ranking."""
    better = {"value": -0.01, "low": -0.02, "high": -0.001}
    small = {"value": -0.025, "low": -0.057, "high": -0.003}
    comparison = {"verdict": "mixed", "difference": {"normalized_entropy": better, "auc": small}}
    outcome = gate(model, {"evaluate": evaluation(**comparison)})
    assert outcome.verdict == "warn", outcome.summary
    assert "verdict_mixed" in outcome.summary
    assert "calibrated better, but ranks worse" in outcome.summary


def test_a_large_auc_loss_stops_despite_better_entropy(gate):
    better = {"value": -0.01, "low": -0.02, "high": -0.001}
    large = {"value": -0.025, "low": -0.029, "high": -0.021}
    comparison = {"verdict": "mixed", "difference": {"normalized_entropy": better, "auc": large}}
    outcome = gate(model, {"evaluate": evaluation(**comparison)})
    assert outcome.verdict == "stop"
    assert "auc_loss is 0.01" in outcome.summary


def curve(*predicted: float) -> list[dict[str, float]]:
    return [
        {"predicted": probability, "observed": probability, "weight": 100.0}
        for probability in predicted
    ]


@pytest.mark.parametrize(
    ("curves", "verdict", "reason"),
    [
        ({"candidate": curve(*[0.1] * 10), "baseline": curve(*[0.1] * 10)}, "pass", ""),
        ({"candidate": curve(0.1), "baseline": curve(*[0.1] * 10)}, "stop", "largest_tie"),
        ({"candidate": curve(*[0.4] * 10), "baseline": curve(*[0.1] * 10)}, "stop", "moved is 3"),
    ],
)
def test_tied_or_shifted_predictions_stop(gate, curves, verdict, reason):
    outcome = gate(model, {"evaluate": evaluation(curves=curves)})
    assert outcome.verdict == verdict, outcome.summary
    assert reason in outcome.summary


def bad_metrics(positives: int, error: float) -> dict:
    """Return metrics of a model that looks bad in every way, on rows with this standard error."""
    bad = {"auc": 0.49, "normalized_entropy": 1.02, "ece": 0.2, "calibration": 1.5}
    half = 1.96 * error
    difference = {
        "normalized_entropy": {"value": 0.02, "low": 0.02 - half, "high": 0.02 + half},
        "auc": {"value": -0.01, "low": -0.01 - half, "high": -0.01 + half},
    }
    others = ("constant", "baseline")
    good = evaluation()["candidate"]
    of_slice = {"column": "a", "value": "x", "rows": 10 * positives, "positives": positives}
    field = {"column": "a", "values": 5, "error": 0.9, "chance": error, "spread": error}
    return {
        "verdict": "undecided", "rows": 20 * positives, "positives": positives,
        "candidate": {**good, **bad}, "constant": {**good, "normalized_entropy": 1.0},
        "baseline": {**good, "normalized_entropy": 1.0}, "difference": difference,
        "versus": dict.fromkeys(others, difference),
        "intervals": {"auc": {"low": 0.49 - half, "high": 0.49 + half},
                      "calibration": {"low": 1.5 - 10 * half, "high": 1.5 + 10 * half}},
        "curves": {"candidate": curve(*[0.2, 0.4] * 10)},
        "slices": [{**of_slice, "candidate": {"calibration": 3.0}, "difference": difference}],
        "field_calibration": {"candidate": [field]},
    }  # fmt: skip


def test_bad_metrics_on_few_rows_only_warn(gate):
    """The gate allows each metric what chance explains."""
    few = gate(model, {"evaluate": evaluation(**bad_metrics(15, 0.2))})
    assert few.verdict == "warn", few.summary
    assert "positives is 15" in few.summary


def test_bad_metrics_on_many_rows_stop(gate):
    many = gate(model, {"evaluate": evaluation(**bad_metrics(20_000, 0.001))})
    checks = many.metrics["checks"]
    stopped = {check["name"].partition(":")[0] for check in checks if check["verdict"] == "stop"}
    assert stopped >= {
        *("auc", "ece", "calibration", "field_calibration", "entropy_loss"),
        *("normalized_entropy_vs_constant", "slice_calibration"),
    }


@pytest.mark.parametrize(
    ("spread", "verdict", "reason"),
    [
        (0.0001, "stop", "beyond seed noise ±0.0003"),
        (0.0015, "warn", "within seed noise ±0.0042"),
    ],
)
def test_a_loss_stops_only_beyond_seed_noise(gate, spread, verdict, reason):
    spec = PipelineSpec.model_validate({"pipeline": "t", "features": {"a": {"column": "a"}}})
    night = {"night": NEWEST, "seeds": [0, 1, 2, 3], "auc": 0.001, "normalized_entropy": spread}
    known = {**night, "model": model_digest(spec)}
    changes = {"verdict": "worse", "difference": loss(0.0041, 0.0004)}
    inputs = {"evaluate": evaluation(**changes)}
    outcome = gate(model, inputs, gates={"seed_noise": known})
    assert outcome.verdict == verdict, outcome.summary
    worse = next(check for check in outcome.metrics["checks"] if "worse" in check["name"])
    assert reason in worse["detail"]


def test_seed_noise_of_another_model_is_ignored(gate, tmp_path):
    known = {"night": NEWEST, "seeds": [0, 1], "auc": 0.1, "normalized_entropy": 0.1, "model": "x"}
    blocks = {"seed_noise": known, "model": {"seed_noise_unknown": {"stop": [None, 0]}}}
    outcome = gate(model, {"evaluate": evaluation()}, gates=blocks)
    assert outcome.verdict == "stop"
    assert "for another model" in outcome.summary
    assert "`nightbid gates noise t` measures it" in (tmp_path / "out/index.html").read_text()


@pytest.mark.parametrize(("excess", "verdict"), [(0.0, "pass"), (0.02, "warn")])
def test_a_new_day_with_unusual_loss_warns(gate, excess, verdict):
    score = {"day": "2026-01-05", "night": "2026-01-07", "through": "2026-01-04", "rows": 900,
             "log_loss": 0.2, "normalized_entropy": 0.97, "error": 0.004}  # fmt: skip
    learned = {"days": ["2026-01-04", "2026-01-05"], "fresh": ["2026-01-05"], "nights": 1,
               "full_night": "2026-01-06", "batch_size": 128, "curve": [score],
               "excess": excess}  # fmt: skip
    inputs = {"evaluate": evaluation(), "train": {"incremental": learned}}
    (check,) = [
        check
        for check in gate(model, inputs).metrics["checks"]
        if check["name"].startswith("new_day_loss")
    ]
    assert check["verdict"] == verdict
    assert "2026-01-05: normalized entropy 0.9700" in check["detail"]
