"""What the page of two or more runs shows."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from nightbid.report.charts import Series, Span, Words, interval_chart, line_chart
from nightbid.report.comparison import Comparison
from nightbid.report.formatting import interval
from nightbid.report.run_page import FIGURES, MARKED

PAIRED = ("auc", "log_loss", "normalized_entropy")


def compare_context(found: Comparison) -> dict[str, Any]:
    """Everything that `compare.html` needs besides addresses."""
    views = found.views
    stages = dict.fromkeys(each.name for view in views for each in view.stages if each.cost)
    return {
        "views": views,
        "first": views[0].head.run_id,
        "codes": found.codes,
        "pairs": found.pairs,
        "paired": {name: FIGURES[name] for name in PAIRED},
        "changed": found.changed,
        "figure_words": FIGURES,
        "cost_stages": list(stages),
        "pair_chart": _pair_chart(found),
        "architectures": [view.stage("train").metrics.get("architecture") for view in views],
        "parameters": [view.stage("train").metrics.get("parameters") for view in views],
        **_curves(found),
    }


def _curves(found: Comparison) -> dict[str, Any]:
    """Validation loss per epoch of every run, on one chart."""
    lines = []
    for at, view in enumerate(found.views):
        points = [
            (each["epoch"], each["validation_log_loss"])
            for each in view.stage("train").metrics.get("history") or []
            if each.get("validation_log_loss") is not None
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
    chart = line_chart(
        lines,
        Words(
            "Training: validation log loss per epoch",
            "The validation log loss of each run after each epoch of training.",
            "figures",
        ),
        x_label="epoch",
        y_label="validation log loss",
    )
    return {"curves": lines, "curve_chart": chart}


def _pair_chart(found: Comparison) -> Markup:
    """Normalised entropy of each run less the first one's."""
    spans = [
        Span(pair.run_id, each["value"], each["low"], each["high"], interval(each, sign=True))
        for pair in found.pairs
        if (each := pair.differences.get("normalized_entropy")) and each["value"] is not None
    ]
    if not spans:
        return Markup("")
    return interval_chart(
        spans,
        Words(
            "Difference on the very same rows",
            "Difference of normalised entropy with its paired 95 % interval; left of 0 is better.",
            "pair-figures",
        ),
        label=f"normalised entropy less that of {found.views[0].head.run_id}",
    )
