"""The trend of a pipeline's costs: night by night, against the limit of an unusual one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from markupsafe import Markup

from nightbid.cost.forecast import MILLION, UNUSUAL, alert_limits
from nightbid.report.charts import Series, Words, line_chart
from nightbid.report.formatting import money
from nightbid.report.summaries import RunSummary

TREND = 60
"""Newest runs that a trend shows."""


@dataclass(frozen=True)
class CostTrend:
    """What each night of a pipeline cost, and from where it would have been unusual."""

    pipeline: str
    line: Markup
    table: str
    """`id` of the table of its figures."""
    nights: tuple[tuple[RunSummary, Decimal | None], ...]
    """Those drawn, the oldest first, each with the cost from which it would have been unusual."""
    unusual: tuple[RunSummary, ...]
    """Nights above the limit, the newest first."""


def cost_trend(pipeline: str, runs: Sequence[RunSummary]) -> CostTrend | None:
    """Draw the nights that trained a model; None while there are fewer than two.

    Args:
        pipeline: whose.
        runs: of it, the oldest first; the newest `TREND` of those that trained are drawn, all count
            towards the limits.
    """
    whole = [run for run in runs if run.per_million_rows is not None and not run.sweep]
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
    nights = tuple(zip(whole, limits, strict=True))[first:]
    at = range(first + 1, len(whole) + 1)
    line = line_chart(
        [
            Series(
                "cost",
                [(x, float(run.cost.amount)) for x, (run, _) in zip(at, nights, strict=True)],
                notes=[run.run_id for run, _ in nights],
            ),
            Series(
                "unusual from here",
                [
                    (x, float(limit))
                    for x, (_, limit) in zip(at, nights, strict=True)
                    if limit is not None
                ],
                dashed=True,
                marks=False,
                tone="s3",
            ),
        ],
        Words(
            f"Cost per night of {pipeline}",
            f"Cost of each night at cloud prices, {money(whole[-1].cost)} of the newest. Dashed:"
            f" {UNUSUAL} times the median of the nights before, for the same rows.",
            figures := f"nights-of-{pipeline}",
        ),
        x_label="nights that trained, the newest last",
        y_label=f"cost, {whole[-1].cost.currency}",
        zero=True,
    )
    return CostTrend(pipeline, line, figures, nights, tuple(reversed(above)))
