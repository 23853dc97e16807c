"""Serving gate: whether the bundle is fast enough, with the same predictions and features."""

from __future__ import annotations

from typing import Any

from nightbid.counts import counted
from nightbid.gates.gate import gate
from nightbid.gates.measurements import Measurements
from nightbid.night.task import StageTask
from nightbid.serving.refitted import figures


@gate("serving")
def measure(task: StageTask) -> Measurements:
    """Measure latency, parity and skew."""
    measurements = Measurements()
    export = task.inputs["export"].manifest.metrics
    load = task.inputs["load_test"].manifest.metrics
    load_note = (
        f"{counted(load['requests'], 'request')} of {counted(load['candidates'], 'candidate')} on"
        f" {load['engine']}"
    )
    if load.get("clock") == "thread":
        load_note += f", in its own time: others took {load['stolen']:.0%} of the core"
    measurements.add("p99_ms", load["latency_ms"]["p99"], note=load_note)
    measurements.add("p50_ms", load["latency_ms"]["p50"], note=load_note)
    measurements.add("requests_per_second_per_core", load["requests_per_second_per_core"])
    if served := load.get("served"):
        objective, candidate = served["objective"], served["candidate"]
        held = candidate["requests_per_second"]
        note = (
            f"{held:,.0f} of {objective['requests_per_second']:,.0f} requests/s of"
            f" {counted(objective['candidates'], 'candidate')} with p99 <="
            f" {objective['p99_ms']:g} ms,"
            f" {counted(candidate['processes'], 'process', 'processes')}, over a socket"
        )
        if champion := served.get("champion"):
            note += f"; the champion: {champion['requests_per_second']:,.0f}"
        measurements.add("rate_held", held / objective["requests_per_second"], note=note)
    measurements.add(
        "parity", export["parity_max_difference"], note="prediction, exported vs reference"
    )
    measurements.add("skew_rows", export["skew_rows"])
    measurements.add(
        "skew_mismatches",
        export["skew_mismatches"],
        note=f"cells, on {counted(export['skew_rows'], 'row')} through both paths",
    )
    measurements.add("bundle_mb", export["bytes"] / 1e6)
    if "refit" in export:
        _refit(measurements, export["refit"])
    return measurements


def _refit(measurements: Measurements, refit: dict[str, Any]) -> None:
    """Measure how the refitted model differs from the judged one."""
    automatic = refit.get("automatic", False)
    why = refit.get("fallback", "")
    if automatic:
        note = f"the judged model serves: {why}" if why else ""
        measurements.add("refit_fallback", float(bool(why)), note=note, lasting=True)
    if why:
        return
    for figure in figures(refit):
        if figure.value is None:
            measurements.skip(f"{figure.statistic} of the refitted model: {figure.note}")
        else:
            measurements.add(figure.statistic, figure.value, note=figure.note, lasting=automatic)
