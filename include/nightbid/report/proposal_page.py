"""Page of proposed gate limits for review: the history of each check, and its band."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from nightbid.config.gate_limits import Limit, Range
from nightbid.counts import counted
from nightbid.gates.judge import figure, in_words
from nightbid.gates.propose import Proposal
from nightbid.report.charts import ChartText, Series, line_chart
from nightbid.report.links import Links
from nightbid.report.pages import document, render

KEYS = (
    {"name": "observed, used for learning", "tone": "s0", "dashed": False},
    {"name": "observed, left out (dots)", "tone": "bad", "dashed": False},
    {"name": "warn, as proposed", "tone": "s1", "dashed": True},
    {"name": "stop, as proposed", "tone": "bad", "dashed": True},
)


def proposal_page(pipeline: str, proposals: Sequence[Proposal], *, path: Path, final: Path) -> str:
    """Make the page.

    Args:
        pipeline: Name of the pipeline.
        proposals: History of each statistic; changed limits are plotted, the rest is in tables.
        path: Path of the suite that was written for review.
        final: Path to which the suite must be renamed to take effect.
    """
    gates: dict[str, dict[str, Any]] = {}
    for at, proposal in enumerate(proposals):
        gate = gates.setdefault(proposal.gate, {"charts": [], "flat": [], "same": []})
        if len({point.value for point in proposal.points}) > 1:
            table = f"figures-{at}"
            gate["charts"].append(
                {
                    **_row(proposal),
                    "chart": _chart(proposal, table),
                    "table": table,
                    "days": proposal.points,
                }
            )
        else:
            gate["same" if proposal.band is None else "flat"].append(_row(proposal))
    bands = sum(proposal.band is not None for proposal in proposals)
    body = render(
        "proposal.html",
        {
            "pipeline": pipeline,
            "gates": gates,
            "keys": KEYS,
            "bands": bands,
            "path": str(path),
            "final": final.name,
        },
    )
    return document(f"Gate limits of {pipeline}", body, links=Links(), pipelines=[pipeline])


def _excluded(proposal: Proposal) -> list[str]:
    return sorted({point.excluded for point in proposal.points if point.excluded})


def _row(proposal: Proposal) -> dict[str, Any]:
    values = proposal.values
    low, high = (figure(min(values)), figure(max(values))) if values else ("–", "–")
    return {
        "statistic": proposal.statistic,
        "seen": low if low == high else f"{low} to {high}",
        "points": len(values),
        "excluded": _excluded(proposal),
        "now": _words(proposal.general),
        "band": _words(proposal.band.limit) if proposal.band else _words(proposal.general),
        "kept": proposal.band is None,
    }


def _words(limit: Limit) -> dict[str, str]:
    return {
        name: in_words(bounds) if bounds else "–"
        for name, bounds in (("warn", limit.warn), ("stop", limit.stop))
    }


def _chart(proposal: Proposal, table: str) -> Markup:
    """Draw the history as a line, excluded values as dots, and the band as dashed lines."""
    limit = proposal.band.limit if proposal.band else proposal.general
    seen = [(p.day, p.value) for p in proposal.points if not p.excluded]
    out = [(p.day, p.value) for p in proposal.points if p.excluded]
    days = [x for x, _ in (*seen, *out)]
    ends = (min(days), max(days))
    series = [Series("seen", seen, tone="s0")]
    for name, bounds, tone in (("warn", limit.warn, "s1"), ("stop", limit.stop, "bad")):
        series += [
            Series(name, [(end, edge) for end in ends], dashed=True, marks=False, tone=tone)
            for edge in _edges(bounds)
        ]
    if out:
        series.append(Series("left out", out, line=False, tone="bad"))
    return line_chart(
        series,
        ChartText(
            f"{proposal.gate}/{proposal.statistic}",
            f"{counted(len(seen), 'value')} used for learning, {len(out)} left out; proposed:"
            f" warn unless {_words(limit)['warn']}, stop unless {_words(limit)['stop']}.",
            table,
        ),
        x_label="day",
        y_label=proposal.statistic.partition(":")[0],
        height=240,
    )


def _edges(bounds: Range | None) -> list[float]:
    return [edge for edge in bounds or () if edge is not None]
