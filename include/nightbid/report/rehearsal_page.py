"""Page of a rehearsed upgrade: verdict, causes, and the comparison of both sides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from nightbid.report.charts import ChartSpan, ChartText, interval_chart
from nightbid.report.links import Links
from nightbid.report.pages import document, render

if TYPE_CHECKING:
    from nightbid.rehearse.report import RehearsalReport

TONES = {"safe": "pass", "safe with noted changes": "warn", "not safe": "stop"}


def rehearsal_page(report: RehearsalReport, links: Links | None = None) -> str:
    """Make the page.

    Args:
        report: Report of the rehearsal.
        links: Link targets; None: no links.
    """
    from nightbid.rehearse.findings import TITLES

    links = links or Links()
    context: dict[str, Any] = {
        "report": report,
        "compared": report.compared,
        "tone": TONES[report.verdict],
        "titles": TITLES,
        "links": links,
        "wrong_metrics": [e for e in report.compared.get("metrics", ()) if not e["same"]],
        "chart": _training_chart(report),
    }
    body = render("rehearsal.html", context)
    return document(report.plan.name, body, links=links, pipelines=[report.plan.pipeline])


def rehearsals_page(reports: Sequence[RehearsalReport], links: Links, pipelines: list[str]) -> str:
    """Make the list of rehearsed upgrades.

    Args:
        reports: Reports, newest first.
        links: Link targets.
        pipelines: Names of pipelines in the navigation.
    """
    body = render("rehearsals.html", {"rows": reports, "links": links})
    address = links.rehearsals()
    return document("Rehearsed upgrades", body, links=links, pipelines=pipelines, address=address)


def _training_chart(report: RehearsalReport) -> Markup:
    training = report.compared.get("training")
    if not training:
        return Markup("")
    differences = [b - a for a, b in zip(training["before"], training["after"], strict=True)]
    spans = [
        ChartSpan(f"seed {report.plan.first_seed + at}", difference, None, None)
        for at, difference in enumerate(differences)
    ]
    spans.append(ChartSpan("mean, 90%", training["mean"], training["low"], training["high"]))
    spans.append(ChartSpan("margin", 0.0, -training["margin"], training["margin"]))
    return interval_chart(
        spans,
        ChartText(
            "Normalized entropy, candidate minus present",
            "Differences of normalized entropy for each seed, their mean with its 90% interval,"
            " and the margin.",
            "training-figures",
        ),
        label="normalized entropy, candidate minus present",
    )
