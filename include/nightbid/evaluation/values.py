"""Evaluation of models of values: their metrics, and the verdict on the candidate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nightbid.config.evaluate import Evaluate
from nightbid.counts import counted
from nightbid.evaluation.bootstrap import Difference, Resampling
from nightbid.evaluation.rows import EvaluationRows
from nightbid.evaluation.scores import Floats
from nightbid.evaluation.slices import slices_of
from nightbid.evaluation.value_metrics import (
    FIGURES,
    ValueReplicates,
    ValueRows,
    checked,
    figures,
    replicate_values,
    value_curve,
)
from nightbid.evaluation.verdict import PROMOTED, UNKNOWN, judge
from nightbid.night.progress import Progress, silent

CURVES = ("candidate", "champion", "baseline")
BINARY = ("auc", "pr_auc", "log_loss", "normalized_entropy", "ece", "gauc", "ndcg")
"""Metrics of probabilities, which are undefined for values."""


def evaluate_values(
    rows: EvaluationRows,
    settings: Evaluate,
    *,
    mean: float,
    seed: int,
    no_reference: str = "",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Compute all metrics of models of values, for the stage's manifest.

    Args:
        rows: Evaluate rows with the predicted values of all models.
        settings: The pipeline's `evaluate` block.
        mean: Mean value of the training rows, which the constant model predicts.
        seed: Seed of the bootstrap.
        no_reference: Reason for not comparing with the champion; empty otherwise.
        progress: Progress callback.
    """
    reference = "champion" if "champion" in rows.scores else "baseline"
    actual = ValueRows(rows.labels, rows.weights, rows.users)
    models = {name: checked(scores) for name, scores in rows.scores.items()}
    models["constant"] = np.full(len(rows), mean)
    by_model = {name: _figures(actual, scores) for name, scores in models.items()}
    progress(0.7, f"intervals over {counted(len(np.unique(rows.users)), 'user')}")
    resampling = Resampling.of(rows.users, settings.bootstrap, seed)
    drawn = replicate_values(resampling, actual, dict(rows.scores))
    difference = _differences(by_model, drawn, reference)
    intervals = {
        name: {figure: replicates.interval(figure) for figure in FIGURES}
        for name, replicates in drawn.items()
    }
    parts = []
    pair = {name: models[name] for name in ("candidate", reference)}
    slices = list(slices_of(rows.slices, settings.slices, settings.slice_values))
    for index, part in enumerate(slices):
        progress(0.8 + 0.15 * index / len(slices), f"slice {part.column} = {part.value}")
        inside = actual.take(part.rows)
        predicted = {name: scores[part.rows] for name, scores in pair.items()}
        of_part = {name: _figures(inside, scores) for name, scores in predicted.items()}
        spread = replicate_values(resampling, inside, predicted)
        parts.append(
            {
                "column": part.column,
                "value": part.value,
                "rows": len(inside.values),
                "positives": int((inside.values > 0).sum()),
                "mean": inside.mean,
                "candidate": of_part["candidate"],
                "reference": of_part[reference],
                "calibration": spread["candidate"].interval("calibration"),
                "difference": _differences(of_part, spread, reference),
            }
        )
    verdict = judge(
        difference["normalized_deviance"],
        settings.margin_deviance,
        difference["gini"],
        settings.margin_gini,
    )
    ratchet = _ratchet(rows, actual, resampling, by_model, settings)
    if verdict == "neutral" and ratchet and ratchet["verdict"] not in PROMOTED:
        verdict = "undecided"
    as_logged = None
    if rows.as_logged is not None:
        as_logged = _figures(actual, checked(rows.as_logged))
    return {
        "kind": "value",
        "verdict": verdict,
        "reference": reference,
        "ratchet": ratchet,
        "as_logged": as_logged,
        "by_propensity": None,
        "no_reference": no_reference,
        "rows": len(rows),
        "positives": int((rows.labels > 0).sum()),
        **rows.units(len(resampling.users)),
        "label_rate": actual.mean,
        "rows_digest": rows.digest,
        "margin_deviance": settings.margin_deviance,
        "margin_gini": settings.margin_gini,
        "candidate": by_model["candidate"],
        "champion": by_model.get("champion"),
        "baseline": by_model["baseline"],
        "constant": by_model["constant"],
        "oracle": None,
        "difference": difference,
        "intervals": intervals["candidate"],
        "model_intervals": intervals,
        "curves": {name: value_curve(actual, models[name]) for name in CURVES if name in models},
        "slices": parts,
        "field_calibration": {},
        "tasks": {},
    }


def _figures(actual: ValueRows, predicted: Floats) -> dict[str, float | None]:
    return {**figures(actual, predicted), **dict.fromkeys(BINARY)}


def _differences(
    metrics: Mapping[str, Mapping[str, float | None]],
    drawn: Mapping[str, ValueReplicates],
    reference: str,
) -> dict[str, Difference]:
    differences: dict[str, Difference] = dict.fromkeys(
        ("auc", "normalized_entropy", "log_loss"), UNKNOWN
    )
    for figure in FIGURES:
        candidate, other = metrics["candidate"][figure], metrics[reference][figure]
        value = None if candidate is None or other is None else candidate - other
        differences[figure] = drawn["candidate"].difference(drawn[reference], figure, value)
    return differences


def _ratchet(
    rows: EvaluationRows,
    actual: ValueRows,
    resampling: Resampling,
    metrics: Mapping[str, Mapping[str, float | None]],
    settings: Evaluate,
) -> dict[str, Any] | None:
    """Compare with the best recent champion, if it beats the current one on these rows."""
    champion = metrics["champion"]["normalized_deviance"] if "champion" in metrics else None
    best = None
    for past in rows.earlier:
        of_past = _figures(actual, checked(past.scores))
        loss = of_past["normalized_deviance"]
        if loss is not None and (best is None or loss < best[0]):
            best = loss, past, of_past
    if best is None or champion is None or best[0] >= champion:
        return None
    _, past, of_past = best
    pair = {"candidate": rows.scores["candidate"], "earlier": past.scores}
    drawn = replicate_values(resampling, actual, pair)
    both = {"candidate": metrics["candidate"], "earlier": of_past}
    difference = _differences(both, drawn, "earlier")
    return {
        "number": past.number,
        "night": past.night,
        "verdict": judge(
            difference["normalized_deviance"],
            settings.margin_deviance,
            difference["gini"],
            settings.margin_gini,
        ),
        "difference": difference,
    }
