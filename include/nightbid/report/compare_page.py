"""Content of the page that compares two or more runs."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from nightbid.report.charts import ChartSpan, ChartText, Series, interval_chart, line_chart
from nightbid.report.comparison import RunComparison
from nightbid.report.figures import words_of
from nightbid.report.formatting import interval
from nightbid.report.run_page import MARKED


def compare_context(comparison: RunComparison) -> dict[str, Any]:
    """Get the context of the template `compare.html`, without addresses."""
    views = comparison.views
    words = words_of(views[0].evaluation)
    stages = dict.fromkeys(stage.name for view in views for stage in view.stages if stage.cost)
    return {
        "views": views,
        "first": views[0].head.run_id,
        "codes": comparison.codes,
        "pairs": comparison.pairs,
        "paired": {name: words[name] for name in (words.rank, *words.losses)},
        "changed": comparison.changed,
        "figure_words": words.names,
        "words": words,
        "cost_stages": list(stages),
        "pair_chart": _pair_chart(comparison),
        "architectures": [view.stage("train").metrics.get("architecture") for view in views],
        "parameters": [view.stage("train").metrics.get("parameters") for view in views],
        **_curves(comparison),
    }


def _curves(comparison: RunComparison) -> dict[str, Any]:
    """Make a chart of the validation loss per epoch of all runs."""
    lines = []
    for at, view in enumerate(comparison.views):
        points = [
            (epoch["epoch"], epoch["validation_log_loss"])
            for epoch in view.stage("train").metrics.get("history") or []
            if epoch.get("validation_log_loss") is not None
        ]
        if points:
            lines.append(
                Series(
                    view.head.run_id, points, tone=f"s{at % 4}", dashed=at >= 4,
                    marks=len(points) <= MARKED,
                )
            )  # fmt: skip
    if len(lines) < 2:
        return {"curves": [], "curve_chart": Markup("")}
    loss = words_of(comparison.views[0].evaluation).validation
    chart = line_chart(
        lines,
        ChartText(
            f"Training: validation {loss} per epoch",
            f"The validation {loss} of each run after each epoch of training.",
            "figures",
        ),
        x_label="epoch",
        y_label=f"validation {loss}",
    )
    return {"curves": lines, "curve_chart": chart}


def _pair_chart(comparison: RunComparison) -> Markup:
    """Make a chart of normalized entropy (or deviance) of each run minus that of the first."""
    words = words_of(comparison.views[0].evaluation)
    loss = words[words.loss].lower()
    spans = [
        ChartSpan(
            pair.run_id,
            difference["value"],
            difference["low"],
            difference["high"],
            interval(difference, sign=True),
        )
        for pair in comparison.pairs
        if (difference := pair.differences.get(words.loss)) and difference["value"] is not None
    ]
    if not spans:
        return Markup("")
    return interval_chart(
        spans,
        ChartText(
            "Difference on the same rows",
            f"Difference of {loss} with its paired 95% interval; left of 0 is better.",
            "pair-figures",
        ),
        label=f"{loss} minus that of {comparison.views[0].head.run_id}",
    )
