"""Decomposition of the candidate's log loss, for simulated logs with known probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PARTS = {
    "noise": "noise: clicks are random even if the true probabilities are known",
    "position": "position: decided after ranking",
    "hidden": "hidden tastes of users, brands and ads: earlier clicks reveal only a part of them",
    "model": "left on the table: contained in the logged columns, but not learned by the candidate",
}


def loss_parts(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Make the sentence and the table below the models of a run.

    Args:
        metrics: Metrics of an evaluation.

    Returns:
        `gap`, a sentence, and `loss_parts`, rows of (part, amount); both are empty if the true
        probabilities are unknown.
    """
    reachable = metrics.get("reachable") or {}
    parts = reachable.get("parts") or {}
    if not parts:
        return {"gap": _gap(metrics), "loss_parts": [], "loss_total": None}
    others = [
        f"{name} {share:.1%}"
        for name in ("champion", "baseline")
        if (share := reachable["shares"].get(name)) is not None
    ]
    share = parts["share"]
    gap = "" if share is None else (
        f"The candidate has {share:.1%} of what a model can gain over the constant prediction"
        + (f" ({', '.join(others)})" if others else "") + "."
    )  # fmt: skip
    rows = [{"part": text, "loss": parts[name]} for name, text in PARTS.items()]
    return {"gap": gap, "loss_parts": rows, "loss_total": reachable["losses"]["candidate"]}


def _gap(metrics: Mapping[str, Any]) -> str:
    """Write how far the candidate is from the true probabilities, if no more detail is known."""
    best = (metrics.get("oracle") or {}).get("log_loss")
    loss = (metrics.get("candidate") or {}).get("log_loss")
    naive = (metrics.get("constant") or {}).get("log_loss")
    if best is None or loss is None:
        return ""
    sentence = f"Log loss is {loss - best:.5f} above the best possible, {best:.5f}"
    if naive is not None and naive > best:
        way = (naive - loss) / (naive - best)
        sentence += f": {way:.1%} of the way there from the constant prediction"
    return (
        f"{sentence}. The true probabilities also depend on facts that no log contains, so no"
        " model can reach 100%."
    )
