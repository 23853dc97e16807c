"""Content of the pages of many runs: the list of nights, and costs by pipeline and month."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from markupsafe import Markup

from nightbid.cost.forecast import UNUSUAL
from nightbid.cost.money import Money
from nightbid.counts import counted
from nightbid.report.charts import Bar, ChartText, bar_chart, sparkline
from nightbid.report.cost_trend import cost_trend
from nightbid.report.formatting import money, number
from nightbid.report.summaries import RunSummary

PAGE = 50
"""Number of runs on a page of the list."""
MONTHS = 24
"""Maximum number of bars in the chart of costs; the table has all months."""


KINDS = {
    "night": "nights",
    "backfill": "backfills",
    "experiment": "experiments",
    "sweep": "trials of sweeps",
}
"""Kind of a run → its plural."""


@dataclass(frozen=True)
class Filter:
    """Filter of a list of runs."""

    kind: str = ""
    """Kind of run, a key of `KINDS`; empty: nights, or runs of any kind if there are no nights."""
    state: str = ""
    text: str = ""
    """Text to search for in pipeline, run, night and headline."""

    def takes(self, run: RunSummary) -> bool:
        """Whether a run has the state and contains the text."""
        if self.state and run.state != self.state:
            return False
        words = f"{run.pipeline} {run.run_id} {run.date} {run.headline}".lower()
        return all(word in words for word in self.text.lower().split())

    @property
    def query(self) -> dict[str, str]:
        """Get the query parameters of the filter."""
        parameters = {"kind": self.kind, "state": self.state, "q": self.text}
        return {key: value for key, value in parameters.items() if value}


TRENDS: dict[str, Callable[[RunSummary], float | None]] = {
    "AUC": lambda run: None if run.is_value else run.auc.value,
    "Normalized entropy": lambda run: None if run.is_value else run.entropy.value,
    "Gini": lambda run: run.auc.value if run.is_value else None,
    "Normalized deviance": lambda run: run.entropy.value if run.is_value else None,
    "Cost, USD": lambda run: float(run.cost.amount),
}


@dataclass(frozen=True)
class Trend:
    """A metric over the newest runs of a pipeline."""

    name: str
    line: Markup
    newest: str


@dataclass(frozen=True)
class MonthCost:
    """Cost of a pipeline in a month."""

    month: str
    pipeline: str
    runs: int
    cloud: Money
    here: Money

    @property
    def per_run(self) -> Money:
        """Cost per run at cloud prices."""
        return Money(self.cloud.amount / self.runs, self.cloud.currency)


def nights_context(
    runs: Sequence[RunSummary],
    total: int,
    *,
    page: int,
    trends: Mapping[str, Sequence[RunSummary]],
) -> dict[str, Any]:
    """Get the context of the template `nights.html`, without addresses."""
    return {
        "runs": runs,
        "total": total,
        "page": page,
        "first": (page - 1) * PAGE + 1,
        "last_page": max(1, -(-total // PAGE)),
        "trend_names": [
            name
            for name in TRENDS
            if name not in ("Gini", "Normalized deviance")
            or any(run.is_value for recent in trends.values() for run in recent)
        ],
        "newest": {name: recent[-1] if recent else None for name, recent in trends.items()},
        "trends": {name: _trends(name, recent) for name, recent in trends.items()},
    }


def _trends(pipeline: str, runs: Sequence[RunSummary]) -> list[Trend]:
    """Make the trends; runs without an evaluation leave gaps, metrics without runs are omitted."""
    trends = []
    for name, value_of in TRENDS.items():
        values = {run.run_id: value_of(run) for run in runs}
        known = [value for value in values.values() if value is not None]
        if known:
            words = f"{counted(len(known), 'night')}, from {known[0]:.4g} to {known[-1]:.4g}"
            line = sparkline(values, ChartText(f"{name} of {pipeline}", words, "runs"))
            trends.append(Trend(name, line, number(known[-1])))
    return trends


def costs_context(runs: Sequence[RunSummary]) -> dict[str, Any]:
    """Get the context of the template `costs.html`, without addresses; newest month first."""
    by_pipeline: dict[str, list[RunSummary]] = {}
    for run in runs:
        by_pipeline.setdefault(run.pipeline, []).append(run)
    trends = [
        trend
        for pipeline, pipeline_runs in sorted(by_pipeline.items())
        if (trend := cost_trend(pipeline, sorted(pipeline_runs, key=lambda run: run.started)))
    ]
    groups: dict[tuple[str, str], list[tuple[Decimal, Decimal, str]]] = {}
    for run in runs:
        for spent in run.spent:
            groups.setdefault((spent.month, run.pipeline), []).append(
                (spent.cloud, spent.here, spent.currency)
            )
    rows = [
        MonthCost(
            month,
            pipeline,
            len(costs),
            Money.total(Money(cloud, currency) for cloud, _, currency in costs),
            Money.total(Money(here, currency) for _, here, currency in costs),
        )
        for (month, pipeline), costs in groups.items()
    ]
    rows.sort(key=lambda row: row.pipeline)
    rows.sort(key=lambda row: row.month, reverse=True)
    totals = {
        month: Money.total(row.cloud for row in rows if row.month == month)
        for month in dict.fromkeys(row.month for row in rows)
    }
    drawn = rows[:MONTHS]
    chart = bar_chart(
        [Bar(f"{row.month} {row.pipeline}", float(row.cloud.amount), money(row.cloud))
         for row in drawn],
        ChartText("Cost by pipeline and month",
              "What each pipeline cost in each month at cloud prices, the newest first.",
              "month-figures"),
        name_width=300,
    ) if drawn else Markup("")  # fmt: skip
    return {
        "rows": rows,
        "month_totals": totals,
        "grand_total": Money.total(totals.values()),
        "cost_chart": chart,
        "cost_trends": trends,
        "unusual_times": UNUSUAL,
    }
