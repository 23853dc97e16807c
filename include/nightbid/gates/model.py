"""Is the candidate fit to serve: against its reference, the baselines and itself."""

from __future__ import annotations

import math
from typing import Any

from nightbid.gates.compare import beyond_chance
from nightbid.gates.facts import Facts
from nightbid.gates.outcome import run_gate
from nightbid.stage import Outcome, StageTask

NORMAL_95 = 1.96
"""Half a 95 % interval, in standard errors."""
REQUIRED = ("auc", "log_loss", "normalized_entropy", "calibration")


def run(task: StageTask) -> Outcome:
    """Judge the evaluation's figures."""
    return run_gate(task, "model", measure)


def measure(task: StageTask) -> Facts:
    """Collect the figures of the candidate, its reference and its slices."""
    facts = Facts()
    metrics = task.inputs["evaluate"].manifest.metrics
    reference = str(metrics["reference"])
    candidate, positives = metrics["candidate"], int(metrics["positives"])
    broken = [name for name in REQUIRED if not _finite(candidate.get(name))]
    facts.add("metrics_not_finite", len(broken), note=", ".join(broken))
    facts.add("positives", positives, note=f"of {metrics['rows']:,} rows")
    _against_reference(facts, metrics, reference)
    if broken:
        return facts
    facts.add("auc", candidate["auc"])
    facts.add("ece", candidate.get("ece"))
    facts.add(
        "calibration",
        beyond_chance(candidate["calibration"], 1.0, 1 / math.sqrt(max(positives, 1))),
        note=f"{candidate['calibration']:.4f} measured on {positives:,} positives",
    )
    entropy = candidate["normalized_entropy"]
    for name in ("constant", "baseline"):
        other = metrics[name]["normalized_entropy"]
        facts.add(
            f"normalized_entropy_vs_{name}", entropy - other, note=f"{entropy:.4f} vs {other:.4f}"
        )
    if metrics.get("champion"):
        facts.add("auc_jump", candidate["auc"] - metrics["champion"]["auc"])
    else:
        facts.skip("a jump over the champion: there is no champion yet")
    if metrics.get("oracle"):
        facts.add("above_oracle", candidate["auc"] - metrics["oracle"]["auc"])
    _slices(
        facts,
        metrics.get("slices", ()),
        task.spec.gates.model.slice_positives,
        positives,
        int(metrics["rows"]),
    )
    return facts


def _against_reference(facts: Facts, metrics: dict[str, Any], reference: str) -> None:
    """Note the verdict, which decides a promotion, and the loss that ends a night.

    A 95 % interval calls one clean candidate in forty worse. That one is not promoted, but nothing
    is broken: like every figure of a gate, the loss counts beyond four standard errors.
    """
    difference = metrics["difference"]["normalized_entropy"]
    value, low, high = (difference[name] for name in ("value", "low", "high"))
    if value is None:
        facts.add("entropy_loss", None, note=f"not defined for the candidate or the {reference}")
        return
    shown = f"{value:+.4f}" + ("" if low is None else f" [{low:+.4f}, {high:+.4f}]")
    note = f"{metrics['verdict']} than the {reference}: normalised entropy {shown}"
    facts.add("worse_than_reference", float(metrics["verdict"] == "worse"), note=note)
    error = 0.0 if low is None else (high - low) / (2 * NORMAL_95)
    facts.add("entropy_loss", max(beyond_chance(value, 0.0, error), 0.0), note=note)


def _slices(
    facts: Facts, slices: list[dict[str, Any]], least: int, positives: int, rows: int
) -> None:
    small = 0
    for each in slices:
        # A slice's positives are not among its figures: take the overall rate.
        expected = each["rows"] * positives / max(rows, 1)
        calibration = each["candidate"].get("calibration")
        if expected < least or not _finite(calibration):
            small += 1
            continue
        name = f"{each['column']}={each['value']}"
        facts.add(
            "slice_calibration",
            beyond_chance(calibration, 1.0, 1 / math.sqrt(expected)),
            subject=name,
            note=f"{calibration:.3f} measured on {each['rows']:,} rows",
        )
        difference = (each.get("difference") or {}).get("normalized_entropy")
        if isinstance(difference, dict):
            facts.add(
                "slice_normalized_entropy",
                difference["low"],
                subject=name,
                note=f"{difference['value']:+.4f} against the reference",
            )
    if small:
        facts.skip(f"{small} slices with fewer than {least} expected positives")


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
