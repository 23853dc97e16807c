"""The verdict on a candidate (better, neutral, undecided, mixed, worse), and its summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from nightbid.differences import with_interval

if TYPE_CHECKING:
    from nightbid.evaluation.bootstrap import Difference

CandidateVerdict = Literal["better", "neutral", "undecided", "mixed", "worse"]
PROMOTED: tuple[CandidateVerdict, ...] = ("better", "neutral")
"""Verdicts that may replace a champion."""
UNKNOWN: Difference = {"value": None, "low": None, "high": None}


def judge(
    entropy: Difference, margin: float, auc: Difference = UNKNOWN, margin_auc: float = 0.005
) -> CandidateVerdict:
    """Judge a candidate by the differences of its metrics from the reference's.

    The verdict from normalized entropy (NE) is

    * *better*: the whole interval is below 0.
    * *worse*: the whole interval is above 0, and the difference exceeds the margin.
    * *neutral*: the whole interval is below the margin, so that a larger loss is excluded
      (non-inferiority).
    * *undecided*: otherwise; there are too few rows for a verdict.

    A better or neutral candidate is *mixed* if its AUC is significantly lower, by more than the
    AUC's margin: it is better calibrated, but ranks worse. Without an interval (a single user, or
    `bootstrap: 0`), a difference above the margin is better or worse; a smaller one is undecided,
    and 0 is neutral. An undefined difference is worse.

    Args:
        entropy: NE of the candidate minus that of the reference, with its 95% interval.
        margin: Loss in NE that a neutral candidate must exclude.
        auc: AUC of the candidate minus that of the reference, with its 95% interval.
        margin_auc: Largest significant loss in AUC that is accepted.
    """
    verdict = _by_entropy(entropy, margin)
    if verdict in PROMOTED and is_lower(auc) and -(auc["value"] or 0.0) > margin_auc:
        return "mixed"
    return verdict


def _by_entropy(entropy: Difference, margin: float) -> CandidateVerdict:
    value, low, high = entropy["value"], entropy["low"], entropy["high"]
    if value is None:
        return "worse"
    if low is None or high is None:
        if abs(value) > margin:
            return "better" if value < 0 else "worse"
        return "neutral" if value == 0 else "undecided"
    if high < 0:
        return "better"
    if low > 0 and value > margin:
        return "worse"
    return "neutral" if high <= margin else "undecided"


SHORT = {
    "normalized_entropy": "NE", "auc": "AUC", "normalized_deviance": "normalized deviance",
    "gini": "Gini",
}  # fmt: skip
"""Metrics that a verdict is based on → their names in sentences."""


def primary(metrics: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the metrics behind an evaluation's verdict: loss, ranking, and the loss's margin."""
    if metrics.get("kind") == "value":
        return "normalized_deviance", "gini", "margin_deviance"
    return "normalized_entropy", "auc", "margin_ne"


def is_lower(difference: Difference) -> bool:
    """Return whether the whole interval is below 0."""
    return difference["high"] is not None and difference["high"] < 0


def is_higher(difference: Difference) -> bool:
    """Return whether the whole interval is above 0."""
    return difference["low"] is not None and difference["low"] > 0


def against(verdict: str, reference: str) -> str:
    """Combine verdict and reference: `better than the champion`, `neutral against the baseline`."""
    if verdict in ("better", "worse"):
        return f"{verdict} than the {reference}"
    return f"{verdict} against the {reference}"


def explain(metrics: Mapping[str, Any]) -> str:
    """Explain a verdict: whether ranking or calibration changed, and why it is undecided.

    Args:
        metrics: Metrics of an evaluation.

    Returns:
        Clauses joined by semicolons, without a full stop; empty if there is nothing to add.
    """
    loss, rank, margin_name = primary(metrics)
    entropy = metrics["difference"][loss]
    auc = metrics["difference"].get(rank, UNKNOWN)
    first, second = SHORT[loss], SHORT[rank]
    notes = []
    if is_lower(auc) and is_lower(entropy):
        notes.append(f"calibrated better, but ranks worse: {first} and {second} disagree")
    elif is_lower(auc) and metrics["verdict"] != "worse":
        notes.append("ranks worse" + ("" if is_higher(entropy) else f"; {first} does not show it"))
    elif is_higher(auc) and is_higher(entropy):
        notes.append(f"ranks better, but is calibrated worse: {first} and {second} disagree")
    margin = metrics.get(margin_name, 0.0)
    if metrics["verdict"] == "undecided" and _by_entropy(entropy, margin) == "undecided":
        high = entropy["high"]
        seen = "there is no interval" if high is None else f"a loss of {high:.4f} is possible"
        notes.append(f"{seen}, the margin is {margin:g}")
    ratchet = metrics.get("ratchet")
    if ratchet:
        apart = signed(ratchet["difference"][loss]) or "not defined"
        notes.append(
            f"{against(ratchet['verdict'], 'best recent champion')} #{ratchet['number']} of"
            f" {ratchet['night']}: {first} {apart}"
        )
    if metrics.get("no_reference"):
        notes.append(metrics["no_reference"])
    return "; ".join(notes)


def with_position(metrics: Mapping[str, Any]) -> str:
    """Describe the candidate's metrics with the logged position; empty if there are none."""
    logged = metrics.get("as_logged") or {}
    if metrics.get("kind") == "value" and logged.get("gini") is not None:
        return (
            f"with the logged position normalized deviance {logged['normalized_deviance']:.4f},"
            f" Gini {logged['gini']:.4f}"
        )
    auc, entropy = logged.get("auc"), logged.get("normalized_entropy")
    if auc is None or entropy is None:
        return ""
    return f"with the logged position AUC {auc:.4f}, NE {entropy:.4f}"


def by_propensity(metrics: Mapping[str, Any]) -> str:
    """Describe the AUC if items had been shown evenly; empty if propensities are unknown."""
    weighted = metrics.get("by_propensity") or {}
    auc = (weighted.get("candidate") or {}).get("auc")
    if auc is None:
        return ""
    text = signed(weighted["difference"]["auc"])
    return f"by inverse propensities AUC {auc:.4f}" + (f" ({text})" if text else "")


def signed(measured: Difference) -> str:
    """Format a difference with its sign and interval; empty if undefined."""
    return "" if measured["value"] is None else with_interval(measured)
