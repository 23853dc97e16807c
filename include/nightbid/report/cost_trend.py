"""The trend of a pipeline's costs: night by night, against the limit of an unusual one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from nightbid.cost.answers import MILLION, UNUSUAL, alert_limits
from nightbid.report.charts import Series, line_chart
from nightbid.report.summaries import RunSummary
from nightbid.report.words import money

TREND = 60
"""Newest runs that a trend shows."""


@dataclass(frozen=True)
class CostTrend:
    """What each night of a pipeline cost, and from where it would have been unusual."""

    pipeline: str
    line: Markup
    nights: int
    unusual: tuple[RunSummary, ...]
    """Nights above the limit, the newest first."""


def cost_trend(pipeline: str, runs: Sequence[RunSummary]) -> CostTrend | None:
    """Draw the nights that trained a model; None while there are fewer than two.

    Args:
        pipeline: whose.
        runs: of it, the oldest first; the newest `TREND` of those that trained are drawn, all count
            towards the limits.
    """
    whole = [run for run in runs if run.per_million_rows is not None]
    if len(whole) < 2:
        return None
    limits = [
        None if limit is None else limit * run.rows / MILLION
        for limit, run in zip(
            alert_limits([run.per_million_rows for run in whole]), whole, strict=True
        )
    ]
    above = [
        run
        for run, limit in zip(whole, limits, strict=True)
        if limit is not None and run.cost.amount > limit
    ]
    first = max(0, len(whole) - TREND)
    spent = [(float(at), float(run.cost.amount)) for at, run in enumerate(whole, 1)][first:]
    limit_line = [
        (float(at), float(limit)) for at, limit in enumerate(limits, 1) if limit is not None
    ]
    limit_line = [point for point in limit_line if point[0] > first]
    line = line_chart(
        [
            Series("cost", spent),
            Series("unusual from here", limit_line, dashed=True, marks=False, tone="s3"),
        ],
        x_label="nights that trained, the newest last",
        y_label=f"cost, {whole[-1].cost.currency}",
        title=f"Cost per night of {pipeline}",
        description=f"Cost of each night at cloud prices, {money(whole[-1].cost)} of the newest."
        f" Dashed: {UNUSUAL} times the median of the nights before, for the same rows.",
        zero=True,
    )
    return CostTrend(pipeline, line, len(spent), tuple(reversed(above)))
