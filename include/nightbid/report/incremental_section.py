"""Section of a run's page on incremental training: learned days and the metrics curve."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from nightbid.night.incremental import METRIC, LearnedDays
from nightbid.report.charts import ChartText, Series, line_chart
from nightbid.report.run_view import RunView

LINES = (("candidate", "train", "s0"), ("baseline", "train_baseline", "s2"))


def incremental_context(view: RunView) -> dict[str, Any]:
    """Get the learned days, and the metrics on each before learning it; empty in other modes."""
    known = {
        name: LearnedDays.model_validate(metric)
        for name, stage, _ in LINES
        if (metric := view.stage(stage).metrics.get(METRIC))
    }
    if "candidate" not in known:
        return {"incremental": None}
    learned = known["candidate"]
    lines = [
        Series(
            name,
            [(point.day, point.normalized_entropy) for point in known[name].curve],
            tone=tone,
            notes=[f"night of {point.night}" for point in known[name].curve],
        )
        for name, _, tone in LINES
        if name in known and known[name].curve
    ]
    chart = Markup("")
    if lines:
        chart = line_chart(
            lines,
            ChartText(
                "Each day before it was learned",
                "Normalized entropy of each day, predicted by weights that had not learned it.",
                "incremental-figures",
            ),
            x_label="day",
            y_label="normalized entropy",
        )
    return {
        "incremental": learned,
        "incremental_said": view.stage("train").metrics.get("start", ""),
        "incremental_rows": list(reversed(learned.curve)),
        "incremental_chart": chart,
        "incremental_lines": lines,
    }
