"""Model gate for value labels: whether the candidate is fit to serve."""

from __future__ import annotations

from typing import Any

from nightbid import differences
from nightbid.config.pipeline import PipelineSpec
from nightbid.counts import counted
from nightbid.evaluation.verdict import against, explain, signed
from nightbid.gates.drift import beyond_chance, interval_error, useful
from nightbid.gates.measurements import Measurements

REQUIRED = ("normalized_deviance", "gini", "calibration")


def measure_values(
    measurements: Measurements, metrics: dict[str, Any], spec: PipelineSpec, broken: list[str]
) -> None:
    """Measure the candidate, its reference and its slices.

    Args:
        measurements: Measurements to add to.
        metrics: Metrics of an evaluation with value labels.
        spec: Pipeline.
        broken: Names of metrics in `REQUIRED` that are not finite numbers.
    """
    reference, candidate = str(metrics["reference"]), metrics["candidate"]
    difference = metrics["difference"]
    loss = difference["normalized_deviance"]
    if loss["value"] is None:
        measurements.add(
            "deviance_loss", None, note=f"not defined for the candidate or the {reference}"
        )
    else:
        note = f"{against(metrics['verdict'], reference)}: normalized deviance {signed(loss)}"
        measurements.add("worse_than_reference", float(metrics["verdict"] == "worse"), note=note)
        measurements.add(
            "deviance_loss",
            max(beyond_chance(loss["value"], 0.0, interval_error(loss)), 0.0),
            note=note,
        )
    gini = difference["gini"]
    if gini["value"] is not None:
        why = explain(metrics)
        measurements.add(
            "gini_loss",
            max(-beyond_chance(gini["value"], 0.0, interval_error(gini)), 0.0),
            note=f"Gini against the {reference} {signed(gini)}" + (f"; {why}" if why else ""),
        )
        measurements.add("verdict_mixed", float(metrics["verdict"] == "mixed"), note=why)
    if broken:
        return
    measurements.add(
        "gini",
        useful(candidate["gini"], 0.0, interval_error(metrics["intervals"].get("gini"))),
        note=f"{candidate['gini']:.4f} measured",
    )
    measurements.add(
        "calibration",
        beyond_chance(
            candidate["calibration"], 1.0, interval_error(metrics["intervals"]["calibration"])
        ),
        note=f"{candidate['calibration']:.4f} measured on"
        f" {counted(metrics['positives'], 'value')} above 0",
    )
    deviance = candidate["normalized_deviance"]
    for name in ("constant", "baseline"):
        other = metrics[name]["normalized_deviance"]
        if other is not None:
            measurements.add(
                f"deviance_vs_{name}", deviance - other, note=f"{deviance:.4f} vs {other:.4f}"
            )
    champion = (metrics.get("champion") or {}).get("gini")
    if champion is not None:
        jump, error = candidate["gini"] - champion, interval_error(gini)
        measurements.add(
            "gini_jump",
            beyond_chance(jump, 0.0, error),
            note=f"{differences.signed(jump)} measured",
        )
    else:
        measurements.skip("a jump over the champion: there is no champion yet")
    _slices(measurements, metrics.get("slices", ()), spec.gates.model.slice_positives)


def _slices(measurements: Measurements, slices: Any, least: int) -> None:
    small = unknown = 0
    for slice_ in slices:
        calibration = slice_["candidate"].get("calibration")
        if slice_["positives"] < least or calibration is None:
            small += 1
            continue
        if slice_["calibration"]["low"] is None:
            # Nearly all rows are of one user, so chance cannot be estimated.
            unknown += 1
            continue
        name = f"{slice_['column']}={slice_['value']}"
        measurements.add(
            "slice_calibration",
            beyond_chance(calibration, 1.0, interval_error(slice_["calibration"])),
            subject=name,
            note=f"{calibration:.3f} measured on {counted(slice_['rows'], 'row')}",
        )
        difference = slice_["difference"]["normalized_deviance"]
        if difference["low"] is not None:
            measurements.add(
                "slice_deviance",
                beyond_chance(difference["value"], 0.0, interval_error(difference)),
                subject=name,
                note=f"{differences.signed(difference['value'])} against the reference",
            )
    if small:
        measurements.skip(
            f"{counted(small, 'slice')} with fewer than {counted(least, 'value')} above 0"
        )
    if unknown:
        measurements.skip(f"{counted(unknown, 'slice')} without an interval for the calibration")
