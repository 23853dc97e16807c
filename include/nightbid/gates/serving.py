"""Can the bundle serve: fast enough, the same answers, the same features."""

from __future__ import annotations

from nightbid.gates.facts import Facts
from nightbid.gates.outcome import run_gate
from nightbid.stage import Outcome, StageTask


def run(task: StageTask) -> Outcome:
    """Judge the export and its load test."""
    return run_gate(task, "serving", measure)


def measure(task: StageTask) -> Facts:
    """Collect latency, parity and skew."""
    facts = Facts()
    export = task.inputs["export"].manifest.metrics
    load = task.inputs["load_test"].manifest.metrics
    asked = f"{load['requests']:,} requests of {load['candidates']} candidates on {load['engine']}"
    if load.get("clock") == "thread":
        asked += f", in its own time: others took {load['stolen']:.0%} of the core"
    facts.add("p99_ms", load["latency_ms"]["p99"], note=asked)
    facts.add("p50_ms", load["latency_ms"]["p50"], note=asked)
    facts.add("requests_per_second_per_core", load["requests_per_second_per_core"])
    facts.add("parity", export["parity_max_difference"], note="probability, exported vs reference")
    facts.add("skew_rows", export["skew_rows"])
    facts.add(
        "skew_mismatches",
        export["skew_mismatches"],
        note=f"cells, on {export['skew_rows']:,} rows through both paths",
    )
    facts.add("bundle_mb", export["bytes"] / 1e6)
    return facts
