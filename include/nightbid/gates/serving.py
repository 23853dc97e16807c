"""Can the bundle serve: fast enough, the same answers, the same features."""

from __future__ import annotations

import math
from typing import Any

from nightbid.gates.gate import gate
from nightbid.gates.measurements import Measurements
from nightbid.night.task import StageTask

SIGMAS = 4.0
"""Standard errors that are put down to chance."""


@gate("serving")
def measure(task: StageTask) -> Measurements:
    """Collect latency, parity and skew."""
    measurements = Measurements()
    export = task.inputs["export"].manifest.metrics
    load = task.inputs["load_test"].manifest.metrics
    asked = f"{load['requests']:,} requests of {load['candidates']} candidates on {load['engine']}"
    if load.get("clock") == "thread":
        asked += f", in its own time: others took {load['stolen']:.0%} of the core"
    measurements.add("p99_ms", load["latency_ms"]["p99"], note=asked)
    measurements.add("p50_ms", load["latency_ms"]["p50"], note=asked)
    measurements.add("requests_per_second_per_core", load["requests_per_second_per_core"])
    if served := load.get("served"):
        asked, candidate = served["objective"], served["candidate"]
        held = candidate["requests_per_second"]
        note = (
            f"{held:,.0f} of {asked['requests_per_second']:,.0f} requests/s of"
            f" {asked['candidates']} candidates with p99 <= {asked['p99_ms']:g} ms,"
            f" {candidate['processes']} processes, over a socket"
        )
        if champion := served.get("champion"):
            note += f"; the champion: {champion['requests_per_second']:,.0f}"
        measurements.add("rate_held", held / asked["requests_per_second"], note=note)
    measurements.add(
        "parity", export["parity_max_difference"], note="prediction, exported vs reference"
    )
    measurements.add("skew_rows", export["skew_rows"])
    measurements.add(
        "skew_mismatches",
        export["skew_mismatches"],
        note=f"cells, on {export['skew_rows']:,} rows through both paths",
    )
    measurements.add("bundle_mb", export["bytes"] / 1e6)
    if "refit" in export:
        _refit(measurements, export["refit"])
    return measurements


def _refit(measurements: Measurements, found: dict[str, Any]) -> None:
    """Collect how the model that learned all days differs from the one that was judged."""
    judged, refitted, difference = found["judged"], found["refitted"], found["difference"]
    rows = f"{found['held_rows']:,} held-back rows with {found['held_positives']:,} positives"
    if difference["low"] is None:
        measurements.skip("the refitted model's log loss: too few held-back users")
    else:
        loss = max(difference["low"], 0.0) / max(judged["log_loss"], 1e-12)
        note = f"{refitted['log_loss']:.5f}, judged {judged['log_loss']:.5f}, on {rows}"
        measurements.add("refit_loss", loss, note=note)
    if refitted["calibration"] is None:
        measurements.skip("the refitted model's calibration: no held-back row is positive")
    else:
        away = refitted["calibration"] - 1
        chance = SIGMAS / math.sqrt(max(found["held_positives"], 1))
        calibration = 1 + math.copysign(max(abs(away) - chance, 0.0), away)
        note = f"{refitted['calibration']:.4f} measured on {rows}"
        measurements.add("refit_calibration", calibration, note=note)
    measurements.add("refit_mean", found["mean_ratio"], note=f"on {rows}")
    if found["agreement"] is None:
        measurements.skip("the refitted model's agreement: a model says the same of every row")
    else:
        measurements.add("refit_agreement", found["agreement"], note=f"on {rows}")
