"""Model gate: whether the candidate is fit to serve, alone and against reference and baselines."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nightbid.config.pipeline import PipelineSpec
from nightbid.counts import counted
from nightbid.differences import with_interval
from nightbid.evaluation.verdict import against, explain, signed
from nightbid.gates import model_values
from nightbid.gates.drift import NORMAL_95, auc_error, beyond_chance, interval_error, useful
from nightbid.gates.gate import gate
from nightbid.gates.measurements import Measurements
from nightbid.night.incremental import METRIC, LearnedDays
from nightbid.night.task import StageTask
from nightbid.profile.bins import Floats
from nightbid.sweep.seed_variance import model_digest

ASSUMED_NOISE = 0.001
"""Standard deviation of normalized entropy between seeds, if it was not measured. For `ctr` with
20,000 rows a day it is 0.0006."""
REQUIRED = ("auc", "log_loss", "normalized_entropy", "calibration")


@gate("model")
def measure(task: StageTask) -> Measurements:
    """Measure the candidate, its reference and its slices."""
    measurements = Measurements()
    metrics = task.inputs["evaluate"].manifest.metrics
    reference = str(metrics["reference"])
    candidate, positives = metrics["candidate"], int(metrics["positives"])
    is_value = metrics.get("kind") == "value"
    required = model_values.REQUIRED if is_value else REQUIRED
    broken = [name for name in required if not _finite(candidate.get(name))]
    measurements.add("metrics_not_finite", len(broken), note=", ".join(broken))
    # Logs may be permanently small, so this warning never expires.
    measurements.add(
        "positives", positives, note=f"of {counted(metrics['rows'], 'row')}", lasting=True
    )
    _new_days(measurements, task)
    if is_value:
        model_values.measure_values(measurements, metrics, task.spec, broken)
        _predictions(measurements, metrics.get("curves") or {}, reference)
        return measurements
    noise = _seed_noise(measurements, task.spec)
    _against_reference(measurements, metrics, reference, noise)
    if broken:
        return measurements
    _levels(measurements, metrics, candidate, positives)
    _predictions(measurements, metrics.get("curves") or {}, reference)
    for name in ("constant", "baseline"):
        _beyond(measurements, f"normalized_entropy_vs_{name}", metrics, name, "normalized_entropy")
    if metrics.get("champion"):
        _beyond(measurements, "auc_jump", metrics, "champion", "auc")
    else:
        measurements.skip("a jump over the champion: there is no champion yet")
    if metrics.get("oracle"):
        _beyond(measurements, "above_oracle", metrics, "oracle", "auc")
    for field in (metrics.get("field_calibration") or {}).get("candidate", ()):
        measurements.add(
            "field_calibration",
            max(
                beyond_chance(field["error"], field["chance"], field.get("spread", 0.0))
                - field["chance"],
                0.0,
            ),
            subject=field["column"],
            note=f"{field['error']:.3f} over {counted(field['values'], 'value')}, by chance"
            f" {field['chance']:.3f}",
        )
    _slices(
        measurements,
        metrics.get("slices", ()),
        task.spec.gates.model.slice_positives,
        positives,
        int(metrics["rows"]),
    )
    return measurements


def _new_days(measurements: Measurements, task: StageTask) -> None:
    """Measure how an incremental night predicted its new days before it learned them."""
    train = task.inputs.get("train")
    record = train.manifest.metrics.get(METRIC) if train is not None else None
    if not record:
        return
    learned = LearnedDays.model_validate(record)
    if learned.excess is None:
        measurements.skip(f"a new day before it was learned: {learned.why_full}")
        return
    newest = learned.curve[-1]
    measurements.add(
        "new_day_loss",
        learned.excess,
        note=f"{newest.day}: normalized entropy {newest.normalized_entropy:.4f},"
        f" standard error {newest.error:.4f}",
    )


def _levels(
    measurements: Measurements, metrics: dict[str, Any], candidate: dict[str, Any], positives: int
) -> None:
    """Measure AUC and calibration of the candidate alone, beyond chance."""
    intervals = metrics.get("intervals") or {}
    auc, rows = candidate["auc"], int(metrics["rows"])
    error = max(interval_error(intervals.get("auc")), auc_error(auc, positives, rows - positives))
    measurements.add(
        "auc",
        useful(auc, 0.5, error),
        note=f"{auc:.4f} measured, standard error {error:.4f}",
    )
    ece, curve = candidate.get("ece"), (metrics.get("curves") or {}).get("candidate")
    usual, spread = _ece_by_chance(curve or [], rows)
    measurements.add(
        "ece",
        ece if ece is None else max(beyond_chance(ece, usual, spread) - usual, 0.0),
        note="" if ece is None else f"{ece:.4f} measured, by chance {usual:.4f}",
    )
    error = max(interval_error(intervals.get("calibration")), 1 / math.sqrt(max(positives, 1)))
    measurements.add(
        "calibration",
        beyond_chance(candidate["calibration"], 1.0, error),
        note=f"{candidate['calibration']:.4f} measured on {counted(positives, 'positive')}",
    )


def _ece_by_chance(curve: list[dict[str, float]], rows: int) -> tuple[float, float]:
    """Compute the mean and standard deviation of the ECE of labels redrawn from the predictions."""
    total = sum(point["weight"] for point in curve)
    if not total or not rows:
        return 0.0, 0.0
    predicted = np.array([min(max(point["predicted"], 0.0), 1.0) for point in curve])
    share = np.array([point["weight"] for point in curve]) / total
    # Mean and variance of the distance of a normal draw from its mean.
    variances = share * predicted * (1 - predicted) / rows
    usual = float(np.sqrt(2 / np.pi * variances).sum())
    return usual, float(np.sqrt((1 - 2 / np.pi) * variances.sum()))


def _beyond(
    measurements: Measurements, name: str, metrics: dict[str, Any], other: str, figure: str
) -> None:
    """Measure the difference from another model on the same rows.

    A difference above 0, which the limits bound, is reduced by four paired standard errors.
    """
    candidate, reference = metrics["candidate"][figure], metrics[other][figure]
    if reference is None:
        measurements.add(name, None, note=f"not defined for the {other}")
        return
    paired = (metrics.get("versus") or {}).get(other) or {}
    value = candidate - reference
    if value > 0:
        value = beyond_chance(value, 0.0, interval_error(paired.get(figure)))
    measurements.add(
        name,
        value,
        note=f"{candidate:.4f} vs {reference:.4f}",
    )


def _seed_noise(measurements: Measurements, spec: PipelineSpec) -> float:
    """Measure the spread of normalized entropy between seeds; return it, 0 if not measured."""
    known = spec.gates.seed_noise
    why = ""
    if known is None:
        why = "not measured"
    elif known.model != model_digest(spec):
        why = f"measured on {known.night} for another model, training or label"
    measurements.add("seed_noise_unknown", float(bool(why)), note=why)
    if known is None or why:
        measurements.skip(f"seed noise: {why}; `nightbid gates noise {spec.pipeline}` measures it")
        return 0.0
    measurements.add(
        "seed_noise",
        known.normalized_entropy,
        note=f"standard deviation over {len(known.seeds)} seeds on {known.night}; of the AUC"
        f" {known.auc:.4f}",
    )
    return known.normalized_entropy


def _against_reference(
    measurements: Measurements, metrics: dict[str, Any], reference: str, noise: float
) -> None:
    """Measure the verdict, which decides on promotion, and the loss, which can stop the night.

    With a 95% interval, one clean candidate in forty is called worse. It is not promoted, but the
    night must not stop, so the loss counts only beyond four standard errors. They include seed
    noise, which the interval over rows does not cover.
    """
    entropy = metrics["difference"]["normalized_entropy"]
    value = entropy["value"]
    if value is None:
        measurements.add(
            "entropy_loss", None, note=f"not defined for the candidate or the {reference}"
        )
        return
    note = f"{against(metrics['verdict'], reference)}: normalized entropy {with_interval(entropy)}"
    of_seeds = math.sqrt(2) * noise
    if noise:
        within = abs(value) <= NORMAL_95 * of_seeds
        note += f"; {'within' if within else 'beyond'} seed noise ±{NORMAL_95 * of_seeds:.4f}"
    measurements.add("worse_than_reference", float(metrics["verdict"] == "worse"), note=note)
    error = math.hypot(interval_error(entropy), of_seeds or math.sqrt(2) * ASSUMED_NOISE)
    measurements.add("entropy_loss", max(beyond_chance(value, 0.0, error), 0.0), note=note)
    _auc_loss(measurements, metrics, reference)


def _auc_loss(measurements: Measurements, metrics: dict[str, Any], reference: str) -> None:
    """Measure how much worse the candidate ranks, regardless of its normalized entropy."""
    auc = metrics["difference"].get("auc") or {"value": None}
    if auc["value"] is None:
        return
    shown = with_interval(auc)
    error = interval_error(auc)
    why = explain(metrics)
    measurements.add(
        "auc_loss",
        max(-beyond_chance(auc["value"], 0.0, error), 0.0),
        note=f"AUC against the {reference} {shown}" + (f"; {why}" if why else ""),
    )
    measurements.add("verdict_mixed", float(metrics["verdict"] == "mixed"), note=why)


def _predictions(
    measurements: Measurements, curves: dict[str, list[dict[str, float]]], reference: str
) -> None:
    """Measure the distribution of the predictions, without labels.

    Curves are groups of rows by prediction. The groups have equal weight, except that equal
    predictions share a group.
    """
    candidate, compared = curves.get("candidate"), curves.get(reference)
    if not candidate:
        measurements.skip("the distribution of predictions: the evaluation has no curve of them")
        return
    weights = np.array([point["weight"] for point in candidate])
    measurements.add(
        "largest_tie", float(weights.max() / weights.sum()), note=counted(len(candidate), "group")
    )
    if not compared:
        return
    share = np.linspace(0.025, 0.975, 20)
    one, two = _quantiles(candidate, share), _quantiles(compared, share)
    measurements.add(
        "predictions_moved",
        float(np.abs(one - two).mean() / two.mean()) if two.mean() > 0 else None,
        note=f"mean {one.mean():.4f}, of the {reference} {two.mean():.4f}",
    )


def _quantiles(curve: list[dict[str, float]], share: Floats) -> Floats:
    """Get the quantiles of the predictions at given shares of the rows."""
    weights = np.array([point["weight"] for point in curve])
    predicted = np.array([point["predicted"] for point in curve])
    below = (np.cumsum(weights) - weights / 2) / weights.sum()
    quantiles: Floats = np.interp(share, below, predicted)
    return quantiles


def _slices(
    measurements: Measurements, slices: list[dict[str, Any]], least: int, positives: int, rows: int
) -> None:
    small = unknown = 0
    for slice_ in slices:
        calibration = slice_["candidate"].get("calibration")
        # Older evaluations do not have the positives of a slice, so use the overall rate.
        slice_positives = slice_.get("positives", slice_["rows"] * positives / max(rows, 1))
        if not _finite(calibration) or slice_positives * max(calibration, 1.0) < least:
            small += 1
            continue
        name = f"{slice_['column']}={slice_['value']}"
        measurements.add(
            "slice_calibration",
            beyond_chance(calibration, 1.0, 1 / math.sqrt(max(slice_positives, 1))),
            subject=name,
            note=f"{calibration:.3f} measured on {counted(slice_['rows'], 'row')}",
        )
        difference: Any = (slice_.get("difference") or {}).get("normalized_entropy")
        if difference and difference["low"] is None:
            # Nearly all rows are of one user or of one class, so chance cannot be estimated.
            unknown += 1
        elif difference:
            measurements.add(
                "slice_normalized_entropy",
                beyond_chance(difference["value"], 0.0, interval_error(difference)),
                subject=name,
                note=f"{signed(difference)} against the reference",
            )
    if small:
        measurements.skip(f"{counted(small, 'slice')} with fewer than {counted(least, 'positive')}")
    if unknown:
        measurements.skip(f"{counted(unknown, 'slice')} without an interval of the loss")


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
