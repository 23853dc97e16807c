"""Trend of a pipeline's costs per night, with the limit from which a night is unusual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from markupsafe import Markup

from nightbid.cost.forecast import MILLION, MINIMUM_HISTORY, UNUSUAL, alert_limits
from nightbid.report.charts import ChartText, Series, line_chart
from nightbid.report.formatting import money
from nightbid.report.summaries import RunSummary

TREND = 60
"""Maximum number of runs in a trend; the newest are shown."""


@dataclass(frozen=True)
class CostTrend:
    """Cost of each night of a pipeline, and the limit from which it is unusual."""

    pipeline: str
    line: Markup
    table: str
    """`id` of the table with the figures of the chart."""
    nights: tuple[tuple[RunSummary, Decimal | None], ...]
    """Nights of the chart, oldest first, each with the cost from which it is unusual."""
    unusual: tuple[RunSummary, ...]
    """Nights above the limit, the newest first."""
    history: int = MINIMUM_HISTORY
    """Number of earlier nights from which there is a limit."""

    @property
    def is_limited(self) -> bool:
        """Whether a night of the chart has a limit."""
        return any(limit is not None for _, limit in self.nights)


def cost_trend(pipeline: str, runs: Sequence[RunSummary]) -> CostTrend | None:
    """Draw the costs of nights that trained a model; None if there are fewer than two.

    Args:
        pipeline: Name of the pipeline.
        runs: Runs of the pipeline, oldest first. The chart shows the newest `TREND` of those that
            trained a model; all of them count for the limits.
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
    drawn = [
        (x, float(limit)) for x, (_, limit) in zip(at, nights, strict=True) if limit is not None
    ]
    line = line_chart(
        [
            Series(
                "cost",
                [(x, float(run.cost.amount)) for x, (run, _) in zip(at, nights, strict=True)],
                notes=[run.run_id for run, _ in nights],
            ),
            Series(
                "unusual above this line",
                drawn,
                dashed=True,
                # A line needs two points.
                marks=len(drawn) == 1,
                tone="s3",
            ),
        ],
        ChartText(
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
