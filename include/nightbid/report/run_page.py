"""Content of the page of a run, computed from its records: texts, tables and charts."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import yaml
from markupsafe import Markup

from nightbid.cost.ledger import totals
from nightbid.counts import counted
from nightbid.evaluation.verdict import explain, with_position
from nightbid.features.describe import Documentation, FeatureDescription
from nightbid.gates.result import known_result
from nightbid.night.manifest import Verdict
from nightbid.report.ablation_section import ablation_context
from nightbid.report.charts import (
    Bar,
    ChartSpan,
    ChartText,
    Series,
    bar_chart,
    interval_chart,
    line_chart,
)
from nightbid.report.figures import words_of
from nightbid.report.formatting import against, interval, money, number, signed
from nightbid.report.incremental_section import incremental_context
from nightbid.report.loss_parts import loss_parts
from nightbid.report.replay_section import policy_context, replay_context
from nightbid.report.run_view import RunView, StageView

MODELS = ("candidate", "champion", "baseline", "constant", "oracle")
TRAINED = (("candidate", "train"), ("baseline", "train_baseline"))
SLICES = 40
"""Maximum number of slices in the chart; the table has all slices."""
TONES = {"candidate": "s0", "champion": "s1", "baseline": "s2"}
"""Model → its color in all charts."""
MARKED = 30
"""Maximum number of points of a line that get a mark each."""
_WORST: dict[Verdict, int] = {"pass": 0, "warn": 1, "stop": 2}
_DRIFT = ("psi", "js", "linf", "oov", "single_auc")


def run_context(view: RunView) -> dict[str, Any]:
    """Get the context of the template `run.html`, in addition to the view."""
    metrics = view.evaluation
    return {
        "metrics": metrics,
        "headline": headline(view),
        "sentence": sentence(view),
        "figure_words": words_of(metrics).names,
        "words": words_of(metrics),
        "models": _models(metrics),
        **loss_parts(metrics),
        "gates": [stage for stage in view.stages if stage.is_gate],
        "features": _features(view),
        "drift": _drift(view),
        "overrides": _overrides(view),
        "versions": _versions(view),
        "spec": yaml.safe_dump(view.head.spec, sort_keys=False, allow_unicode=True, width=96),
        **replay_context(view),
        **policy_context(view),
        **ablation_context(view),
        **incremental_context(view),
        **_calibration(metrics),
        **_slices(metrics),
        **_training(view),
        **_load(view),
        **_costs(view),
    }


def headline(view: RunView) -> str:
    """Describe the outcome of the run in a few words."""
    metrics = view.evaluation
    verdict = against(metrics["verdict"], metrics["reference"]) if metrics else ""
    ended = view.deciding
    if ended is not None:
        word = "stopped by" if ended.state == "stopped" else "failed at"
        return f"{word} {ended.name}" + (f"; the candidate is {verdict}" if verdict else "")
    if view.state == "done":
        return f"the candidate is {verdict}" if verdict else "done"
    if view.waits_for_person:
        return f"waits for approval; the candidate is {verdict}"
    return f"unfinished; the candidate is {verdict}" if verdict else "unfinished: not evaluated yet"


def sentence(view: RunView) -> str:
    """Describe the candidate against its reference, and its outcome, with figures."""
    metrics = view.evaluation
    parts = []
    if metrics:
        words = words_of(metrics)
        figures = " and ".join(
            f"{short} {number(metrics['candidate'].get(name))}"
            f" ({signed(metrics['difference'][name]['value'])}"
            f" {interval(metrics['difference'][name], sign=True)})".replace(" )", ")")
            for short, name in (
                (words[words.rank], words.rank),
                (words[words.loss].lower(), words.loss),
            )
        )
        users = f" of {counted(metrics['users'], 'user')}" if metrics.get("users") else ""
        if anonymous := metrics.get("anonymous"):
            users += f"{' and' if users else ','} {counted(anonymous, 'row')} without a user"
        parts.append(
            f"The candidate reaches {figures} against the {metrics['reference']}"
            f" on the same {counted(metrics['rows'], 'row')}{users}."
        )
        parts += [
            f"{phrase[:1].upper()}{phrase[1:]}."
            for phrase in (explain(metrics), with_position(metrics))
            if phrase
        ]
    ended = view.deciding
    if ended is not None:
        parts.append(f"{ended.name}: {ended.summary}")
    elif view.stage("promote").state == "done":
        summary = view.stage("promote").summary
        parts.append(f"{summary[:1].upper()}{summary[1:]}.")
    if view.behind:
        parts.append(f"{view.behind[:1].upper()}{view.behind[1:]}.")
    if not parts:
        last = [stage for stage in view.stages if stage.record]
        parts.append(f"Nothing was evaluated yet; last finished: {last[-1].name}." if last else
                     "No stage has finished yet.")  # fmt: skip
    return " ".join(parts)


def _models(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    intervals = metrics.get("model_intervals") or {"candidate": metrics.get("intervals")}
    return [
        {
            "name": name,
            "note": _note(name, metrics),
            "figures": metrics[name],
            "intervals": intervals.get(name),
        }
        for name in MODELS
        if metrics.get(name)
    ]


def _note(name: str, metrics: dict[str, Any]) -> str:
    if name == "baseline" and "baseline_column" in metrics:
        return f"column {metrics['baseline_column']} of the logs"
    return "true probabilities" if name == "oracle" else ""


def _calibration(metrics: dict[str, Any]) -> dict[str, Any]:
    curves = [
        {"name": name, "points": points, "tone": TONES.get(name, "s3")}
        for name, points in (metrics.get("curves") or {}).items()
        if points
    ]
    if not curves:
        return {"curves": [], "calibration_chart": Markup("")}
    observed = "mean value" if metrics.get("kind") == "value" else "rate"
    chart = line_chart(
        [
            Series(
                curve["name"],
                [(p["predicted"], p["observed"]) for p in curve["points"]],
                tone=curve["tone"],
            )
            for curve in curves
        ],
        ChartText(
            "Calibration curve",
            f"Observed {observed} against mean prediction, in groups of rows of equal weight.",
            "calibration-figures",
        ),
        x_label="mean prediction",
        y_label=f"observed {observed}",
        diagonal=True,
    )
    return {"curves": curves, "calibration_chart": chart}


def _slices(metrics: dict[str, Any]) -> dict[str, Any]:
    spans = [
        ChartSpan(f"{group['column']} = {group['value']}",
             difference["value"], difference["low"], difference["high"],
             interval(difference, sign=True))
        for group in metrics.get("slices") or []
        if (difference := group["difference"][words_of(metrics).loss])["value"] is not None
    ][:SLICES]  # fmt: skip
    if not spans:
        return {"slice_chart": Markup("")}
    words = words_of(metrics)
    loss = words[words.loss].lower()
    return {
        "slice_chart": interval_chart(
            spans,
            ChartText(
                "Difference by slice",
                f"Difference of {loss} with its paired 95% interval.",
                "slice-figures",
            ),
            label=f"{loss}, candidate minus {metrics['reference']}",
        )
    }


def _training(view: RunView) -> dict[str, Any]:
    trained = [
        {"name": name, **stage.metrics}
        for name, key in TRAINED
        if "architecture" in (stage := view.stage(key)).metrics
    ]
    losses: list[Series] = []
    areas: list[Series] = []
    for model in trained:
        history = model.get("history") or []
        for title, column, lines in (
            (f"{model['name']}, training", "loss", losses),
            (f"{model['name']}, validation", "validation_log_loss", losses),
            (f"{model['name']}, validation", "validation_auc", areas),
        ):
            points = [
                (epoch["epoch"], epoch[column])
                for epoch in history
                if epoch.get(column) is not None
            ]
            if points:
                lines.append(
                    Series(
                        title,
                        points,
                        dashed=column == "loss",
                        marks=len(points) <= MARKED,
                        tone=TONES[model["name"]],
                    )
                )
    charts: dict[str, Any] = {}
    validation = words_of(view.evaluation).validation
    for key, series, label in (("loss", losses, validation), ("auc", areas, "AUC")):
        charts[f"{key}_lines"] = series
        charts[f"{key}_chart"] = Markup("") if not series else line_chart(
            series,
            ChartText(
                f"Training: {label} per epoch",
                f"The {label} after each epoch of training.",
                "epoch-figures",
            ),
            x_label="epoch",
            y_label=label,
        )  # fmt: skip
    return {"training": trained, **charts}


def _load(view: RunView) -> dict[str, Any]:
    """Get the load curve: latency by load. The load test names its own axis."""
    curve = [_flat(point) for point in view.stage("load_test").metrics.get("curve") or []]
    keys = list(curve[0]) if curve else []
    latencies = [key for key in keys if key.removesuffix("_ms").startswith("p5") or
                 key.removesuffix("_ms").startswith("p9")]  # fmt: skip
    loads = [key for key in keys if key not in latencies]
    if not latencies or not loads:
        return {"load_chart": Markup(""), "load_lines": [], "load_columns": [], "load_rows": []}
    x = loads[0]
    lines = [
        Series(
            key.removesuffix("_ms"),
            [(point[x], point[key]) for point in curve if key in point],
            tone=f"s{at}",
        )
        for at, key in enumerate(latencies[:4])
    ]
    chart = line_chart(
        lines,
        ChartText(
            "Latency under load", f"Latency percentiles against {_spaced(x)}.", "load-figures"
        ),
        x_label=_spaced(x),
        y_label="latency, ms",
        zero=True,
    )
    columns = [x, *(key for key in loads if key != x), *latencies]
    return {
        "load_chart": chart,
        "load_lines": lines,
        "load_columns": [_spaced(column) for column in columns],
        "load_rows": [[point.get(column) for column in columns] for point in curve],
    }


def _flat(point: dict[str, Any]) -> dict[str, float]:
    nested = point.get("latency_ms")
    flat = {**point, **nested} if isinstance(nested, dict) else point
    return {
        key: float(value)
        for key, value in flat.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _spaced(name: str) -> str:
    return f"{name[:-3]}, ms" if name.endswith("_ms") else name.replace("_", " ")


def _costs(view: RunView) -> dict[str, Any]:
    cloud, here = totals(view.costs, "stage"), totals(view.costs, "stage", here=True)
    budget: Any = view.head.spec.get("budget") or {}
    limits = {name: Decimal(str(value)) for name, value in (budget.get("stage_usd") or {}).items()}
    rows: list[dict[str, Any]] = [
        {
            "name": stage.name,
            "cloud": cloud[stage.name],
            "here": here[stage.name],
            "limit": limits.get(stage.name),
            "attempts": len(stage.attempts),
        }
        for stage in view.stages
        if stage.name in cloud
    ]
    bars = [
        Bar(
            row["name"],
            float(row["cloud"].amount),
            money(row["cloud"]) + (f" of {row['limit']}" if row["limit"] is not None else ""),
            None if row["limit"] is None else float(row["limit"]),
            "bad" if row["limit"] is not None and row["cloud"].amount > row["limit"] else "s0",
        )
        for row in rows
    ]
    chart = bar_chart(
        bars,
        ChartText(
            "Cost by stage", "Cost of each stage at cloud prices, all attempts.", "cost-figures"
        ),
    )
    return {"costs": rows, "cost_chart": chart if rows else Markup("")}


def _features(view: RunView) -> tuple[FeatureDescription, ...]:
    """Get the descriptions of features that featurization wrote."""
    stage = view.stage("featurize")
    if stage.folder is None:
        return ()
    try:
        known = Documentation.load(stage.folder / "fitted")
    except FileNotFoundError:
        return ()
    return known.with_oov(stage.metrics.get("oov_rate") or {}).features


def _drift(view: RunView) -> list[dict[str, Any]]:
    """Get the measurements of the features gate by model input, the largest drift first."""
    result = _gate_result(view.stage("gate_features"))
    inputs: dict[str, dict[str, Any]] = {}
    for statistic, part, value, _ in result.get("facts") or []:
        family, _, name = statistic.partition(":")
        if family in _DRIFT and name:
            row = inputs.setdefault(name, {"name": name, "verdict": "pass"})
            row[family] = value
            row.setdefault("part", part)
    for finding in result.get("findings") or []:
        name = finding["statistic"].partition(":")[2]
        if name in inputs and _WORST[finding["verdict"]] > _WORST[inputs[name]["verdict"]]:
            inputs[name]["verdict"] = finding["verdict"]
    measured = [row for row in inputs.values() if row.get("psi") is not None]
    return sorted(
        measured, key=lambda row: (-_WORST[row["verdict"]], -abs(row["psi"]), row["name"])
    )


def _overrides(view: RunView) -> list[dict[str, Any]]:
    """List the overrides that apply on this night, even if they did not change a verdict."""
    gates: Any = view.head.spec.get("gates", {})
    night = view.head.date.isoformat()
    return [override for override in gates.get("overrides", ()) if night <= str(override["until"])]


def _gate_result(stage: StageView) -> dict[str, Any]:
    return (known_result(stage.folder) if stage.folder is not None else None) or {}


def _versions(view: RunView) -> dict[str, str]:
    versions: dict[str, str] = {}
    for stage in view.stages:
        if stage.manifest:
            versions |= stage.manifest.versions
    return dict(sorted(versions.items()))
