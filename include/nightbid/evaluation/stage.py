"""Evaluate: compare candidate, reference and baselines on the same newest rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from nightbid.counts import counted
from nightbid.errors import MissingDataError
from nightbid.evaluation.bootstrap import (
    FIGURES,
    Difference,
    Replicates,
    Resampling,
    replicate,
)
from nightbid.evaluation.field_calibration import field_calibration
from nightbid.evaluation.metrics import (
    Metrics,
    calibration_curve,
    constant_scores,
    label_rate,
    summary,
)
from nightbid.evaluation.ranking_metrics import GroupedScores, grouped_auc, ndcg
from nightbid.evaluation.reachable import reachable
from nightbid.evaluation.rows import EarlierChampion, EvaluationRows, score_rows, training_rate
from nightbid.evaluation.scores import Floats, Ints, ScoreTable
from nightbid.evaluation.slices import slices_of
from nightbid.evaluation.values import evaluate_values
from nightbid.evaluation.verdict import (
    PROMOTED,
    CandidateVerdict,
    against,
    by_propensity,
    explain,
    judge,
    signed,
    with_position,
)
from nightbid.night.manifest import RowCounts
from nightbid.night.progress import Progress, silent
from nightbid.night.task import Outcome, StageTask

DIFFERENCES = ("auc", "normalized_entropy", "log_loss")
MOST_WEIGHT = 100.0
"""Upper bound of inverse-propensity weights, as a multiple of their median."""
CURVES = ("candidate", "champion", "baseline")


def run(task: StageTask) -> Outcome:
    """Score the evaluate rows with every model, and judge the candidate.

    Raises:
        NightbidError: Rows are missing, or differ between sample and featurize.
    """
    settings = task.spec.evaluate
    rows = score_rows(task, settings.slices)
    if not len(rows):
        raise MissingDataError(
            "no evaluate rows",
            where=", ".join(day.isoformat() for day in task.night.evaluate),
            hint="use a later --date, or a label condition that some rows meet",
        )
    base_rate = training_rate(task.inputs["featurize"].path)
    metrics = (
        evaluate_values(
            rows,
            settings,
            mean=base_rate,
            seed=task.spec.seed,
            no_reference=task.no_reference,
            progress=task.progress,
        )
        if task.spec.label.kind == "value"
        else evaluate(
            rows,
            no_reference=task.no_reference,
            base_rate=base_rate,
            replicates=settings.bootstrap,
            margin=settings.margin_ne,
            margin_auc=settings.margin_auc,
            ndcg_k=settings.ndcg_k,
            slices=settings.slices,
            slice_values=settings.slice_values,
            seed=task.spec.seed,
            progress=task.progress,
        )
    )
    if column := task.spec.baseline.column:
        metrics |= {"baseline_column": column, "unscored": rows.unscored}
    metrics["reachable"] = reachable(task, rows, base_rate)
    if rows.share < 1:
        metrics |= {"users_share": rows.share, "rows_of_other_users": rows.others}
    task.progress(0.98, "writing")
    text = json.dumps(metrics, indent=1, sort_keys=True)
    (task.output / "evaluation.json").write_text(text)
    if settings.keep_scores:
        rows.save_scores(task.output / "scores" / "part-00000.parquet")
    return Outcome(
        rows=RowCounts(
            read=len(rows) + rows.unscored + rows.others,
            written=len(rows),
            dropped=rows.unscored + rows.others,
        ),
        metrics=metrics,
        summary=_sentence(metrics),
    )


def evaluate(
    rows: EvaluationRows,
    *,
    base_rate: float,
    replicates: int,
    margin: float,
    margin_auc: float = 0.005,
    ndcg_k: int,
    slices: tuple[str, ...],
    slice_values: int,
    seed: int,
    no_reference: str = "",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Compute all metrics of the models, for the stage's manifest.

    Args:
        rows: Evaluate rows with the scores of all models.
        base_rate: Label rate of the training rows, which the constant model predicts.
        replicates: Number of bootstrap replicates for the intervals.
        margin: Loss in normalized entropy that a neutral candidate must exclude.
        margin_auc: Largest significant loss in AUC that is accepted.
        ndcg_k: Cutoff of NDCG.
        slices: Columns to slice by.
        slice_values: Maximum number of frequent values per column with their own slice.
        seed: Seed of the bootstrap.
        no_reference: Reason for not comparing with the champion; empty otherwise.
        progress: Progress callback.
    """
    reference = "champion" if "champion" in rows.scores else "baseline"
    models = {**rows.scores, "constant": constant_scores(base_rate, len(rows))}
    everything = np.ones(len(rows), np.bool_)
    tables = {name: _table(rows, scores, everything) for name, scores in models.items()}
    figures = {
        name: _figures(rows, tables[name], scores, everything, ndcg_k)
        for name, scores in models.items()
    }
    progress(0.7, f"intervals over {counted(len(np.unique(rows.users)), 'user')}")
    resampling = Resampling.of(rows.users, replicates, seed)
    if rows.truth is not None:
        models["oracle"] = rows.truth
        figures["oracle"] = summary(_table(rows, rows.truth, everything))
    drawn = _replicates(rows, resampling, models, everything)
    versus = {name: _differences(figures, drawn, name) for name in models if name != "candidate"}
    difference = versus[reference]
    intervals = {
        name: {figure: drawn[name].interval(figure) for figure in FIGURES} for name in rows.scores
    }
    parts = []
    pair = {name: rows.scores[name] for name in ("candidate", reference)}
    sliced = list(slices_of(rows.slices, slices, slice_values))
    for index, part in enumerate(sliced):
        progress(0.8 + 0.15 * index / len(sliced), f"slice {part.column} = {part.value}")
        inside = {
            name: _figures(rows, _table(rows, scores, part.rows), scores, part.rows, ndcg_k)
            for name, scores in pair.items()
        }
        spread = _replicates(rows, resampling, pair, part.rows)
        parts.append(
            {
                "column": part.column,
                "value": part.value,
                "rows": int(part.rows.sum()),
                "positives": int(rows.labels[part.rows].sum()),
                "candidate": inside["candidate"],
                "reference": inside[reference],
                "difference": _differences(inside, spread, reference),
            }
        )
    judged = partial(judge, margin=margin, margin_auc=margin_auc)
    verdict = judged(difference["normalized_entropy"], auc=difference["auc"])
    ratchet = _ratchet(rows, resampling, figures, judged)
    if verdict == "neutral" and ratchet and ratchet["verdict"] not in PROMOTED:
        # A series of neutral nights may lose the margin once, not each time.
        verdict = "undecided"
    as_logged = None
    if rows.as_logged is not None:
        logged = summary(_table(rows, rows.as_logged, everything))
        as_logged = {name: logged[name] for name in DIFFERENCES}  # type: ignore[literal-required]
    oracle = None
    if "oracle" in figures:
        best = figures["oracle"]
        oracle = {name: best[name] for name in ("log_loss", "normalized_entropy", "auc")}
    return {
        "verdict": verdict,
        "reference": reference,
        "ratchet": ratchet,
        "as_logged": as_logged,
        "by_propensity": _by_propensity(rows, pair, resampling, reference),
        "no_reference": no_reference,
        "rows": len(rows),
        "positives": int(rows.labels.sum()),
        **rows.units(len(resampling.users)),
        "label_rate": label_rate(tables["candidate"]),
        "rows_digest": rows.digest,
        "margin_ne": margin,
        "margin_auc": margin_auc,
        "candidate": figures["candidate"],
        "champion": figures.get("champion"),
        "baseline": figures["baseline"],
        "constant": figures["constant"],
        "oracle": oracle,
        "difference": difference,
        "versus": versus,
        "intervals": intervals["candidate"],
        "model_intervals": intervals,
        "curves": {name: calibration_curve(tables[name]) for name in CURVES if name in tables},
        "slices": parts,
        "field_calibration": field_calibration(sliced, rows.labels, rows.weights, pair),
        "tasks": _tasks(rows, ndcg_k),
    }


def _by_propensity(
    rows: EvaluationRows, pair: dict[str, Floats], resampling: Resampling, reference: str
) -> dict[str, Any] | None:
    """Compare on rows weighted by inverse propensities, as if items had been shown evenly.

    Returns:
        Metrics of both models, their paired differences, and row counts; None if no propensities
        are known.
    """
    if rows.propensity is None:
        return None
    known = ~np.isnan(rows.propensity)
    if not known.any():
        return None
    inverse = 1 / np.where(known, rows.propensity, 1.0)
    # Cap the weights, so that the rarest rows do not decide alone.
    most = MOST_WEIGHT * float(np.median(inverse[known]))
    weighted = replace(rows, weights=rows.weights * np.minimum(inverse, most))
    figures = {name: summary(_table(weighted, scores, known)) for name, scores in pair.items()}
    drawn = _replicates(weighted, resampling, pair, known)
    used = weighted.weights[known]
    return {
        "rows": int(known.sum()),
        "unknown": int((~known).sum()),
        "effective_rows": float(used.sum() ** 2 / (used**2).sum()),
        "capped": int((inverse[known] > most).sum()),
        **{name: {key: of_model[key] for key in DIFFERENCES} for name, of_model in figures.items()},  # type: ignore[literal-required]
        "difference": _differences(figures, drawn, reference),
    }


def _ratchet(
    rows: EvaluationRows,
    resampling: Resampling,
    figures: dict[str, Metrics],
    judged: Callable[..., CandidateVerdict],
) -> dict[str, Any] | None:
    """Compare with the best recent champion, if it beats the current one on these rows."""
    best: tuple[float, EarlierChampion] | None = None
    for past in rows.earlier:
        loss = summary(ScoreTable.of(rows.labels, past.scores, rows.weights))["normalized_entropy"]
        if loss is not None and (best is None or loss < best[0]):
            best = loss, past
    champion = figures["champion"]["normalized_entropy"] if "champion" in figures else None
    if best is None or champion is None or best[0] >= champion:
        return None
    _, past = best
    everything = np.ones(len(rows), np.bool_)
    table = _table(rows, past.scores, everything)
    pair = {"candidate": rows.scores["candidate"], "earlier": past.scores}
    drawn = _replicates(rows, resampling, pair, everything)
    both = {"candidate": figures["candidate"], "earlier": summary(table)}
    difference = _differences(both, drawn, "earlier")
    return {
        "number": past.number,
        "night": past.night,
        "verdict": judged(difference["normalized_entropy"], auc=difference["auc"]),
        "difference": difference,
    }


def _tasks(rows: EvaluationRows, k: int) -> dict[str, Any]:
    """Compute metrics for each task of a multi-task candidate.

    The condition is evaluated on all rows; the label on rows where the condition held, as for a
    single-task model of that label.
    """
    by_task: dict[str, Any] = {}
    if rows.given is None:
        return by_task
    everything = np.ones(len(rows), np.bool_)
    judged = [(rows.given, everything), (rows.labels, rows.given == 1)]
    for (name, scores), (labels, mask) in zip(rows.tasks.items(), judged, strict=False):
        part = replace(rows, labels=labels)
        table = _table(part, scores, mask)
        by_task[name] = {
            "rows": int(mask.sum()),
            "positives": int(labels[mask].sum()),
            **_figures(part, table, scores, mask, k),
        }
    return by_task


def _table(rows: EvaluationRows, scores: Floats, mask: npt.NDArray[np.bool_]) -> ScoreTable:
    return ScoreTable.of(rows.labels[mask], scores[mask], rows.weights[mask])


def _figures(
    rows: EvaluationRows, table: ScoreTable, scores: Floats, mask: npt.NDArray[np.bool_], k: int
) -> Metrics:
    columns = (rows.labels[mask], scores[mask], rows.weights[mask])
    users: Ints = rows.users[mask]
    return summary(
        table,
        gauc=grouped_auc(GroupedScores.of(users, *columns)),
        ndcg=ndcg(GroupedScores.of(rows.lists[mask], *columns), k),
    )


def _replicates(
    rows: EvaluationRows,
    resampling: Resampling,
    models: dict[str, Floats],
    mask: npt.NDArray[np.bool_],
) -> dict[str, Replicates]:
    return replicate(
        resampling,
        rows.labels[mask],
        rows.weights[mask],
        rows.users[mask],
        {name: scores[mask] for name, scores in models.items()},
    )


def _differences(
    figures: dict[str, Metrics], drawn: dict[str, Replicates], reference: str
) -> dict[str, Difference]:
    differences = {}
    for figure in DIFFERENCES:
        candidate, other = figures["candidate"][figure], figures[reference][figure]  # type: ignore[literal-required]
        value = None if candidate is None or other is None else candidate - other
        differences[figure] = drawn["candidate"].difference(drawn[reference], figure, value)
    return differences


def _sentence(metrics: dict[str, Any]) -> str:
    candidate, difference = metrics["candidate"], metrics["difference"]
    reference = metrics["reference"]
    if reference == "baseline" and "baseline_column" in metrics:
        reference = f"baseline {metrics['baseline_column']}"
    parts = [against(metrics["verdict"], reference)]
    if metrics.get("kind") == "value":
        parts.append(
            f"normalized deviance {_four(candidate['normalized_deviance'])}"
            f" {_signed(difference['normalized_deviance'])}, Gini {_four(candidate['gini'])}"
            f" {_signed(difference['gini'])}, calibration {_four(candidate['calibration'])}"
        )
    if candidate["auc"] is not None:
        parts.append(f"AUC {candidate['auc']:.4f} {_signed(difference['auc'])}")
    if candidate["normalized_entropy"] is not None:
        parts.append(
            f"NE {candidate['normalized_entropy']:.4f} {_signed(difference['normalized_entropy'])}"
        )
    if attainable := metrics.get("reachable"):
        parts.append(f"{attainable['parts']['share'] or 0:.0%} of what a model can gain")
    if metrics.get("unscored"):
        unscored = counted(metrics["unscored"], "row")
        parts.append(f"{unscored} without {metrics['baseline_column']} left out")
    if (share := metrics.get("users_share", 1.0)) < 1:
        parts.append(f"evaluated on {share:.2%} of the users (evaluate.memory_gb)")
    more = (explain(metrics), with_position(metrics), by_propensity(metrics))
    return "; ".join(filter(None, (", ".join(parts), *more)))


def _four(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _signed(difference: Difference) -> str:
    text = signed(difference)
    return f"({text})" if text else ""
