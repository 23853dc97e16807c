"""Whole pages from templates. Every value is escaped: names of columns and slices are data."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, FileSystemLoader
from markupsafe import Markup

from nightbid.alerts.message import Alert
from nightbid.config.gates import GATES
from nightbid.cost.forecast import UNUSUAL
from nightbid.gates.catalog import checks_of
from nightbid.gates.judge import in_words
from nightbid.night.champion import Champion, Pause
from nightbid.night.record import RunRecord
from nightbid.report import formatting
from nightbid.report.assets import inline_policy, scripts
from nightbid.report.compare_page import compare_context
from nightbid.report.comparison import Comparison
from nightbid.report.cost_trend import cost_trend
from nightbid.report.index_pages import KINDS, Filter, costs_context, nights_context
from nightbid.report.links import Links
from nightbid.report.run_page import run_context
from nightbid.report.run_view import RunView
from nightbid.report.summaries import RunSummary
from nightbid.report.what_now import is_live, what_now

REFRESH_SECONDS = 15
"""A page on a server is loaded again this often while a stage runs."""
TEMPLATES = Path(__file__).parent / "templates"


def run_document(
    run: RunRecord, links: Links | None = None, *, nights: Sequence[RunSummary] = ()
) -> str:
    """A self-contained document of one run, at whatever point it is.

    Args:
        run: finished, failed, stopped or still going.
        links: where its links lead; default: nowhere.
        nights: of its pipeline, the oldest first, for the trend of the costs up to this one; later
            ones are left out.
    """
    view, links = RunView(run), links or Links()
    is_served = links.base is not None
    until = [night for night in nights if night.started <= run.head.started]
    context = {
        "view": view,
        "links": links,
        "cost_trend_of_nights": cost_trend(run.head.pipeline, until),
        "unusual_times": UNUSUAL,
        "now": what_now(view) if is_served else None,
        **run_context(view),
    }
    body = _with_contents(render("run.html", context))
    going = is_live(view, dt.datetime.now(dt.UTC))
    return document(
        f"{view.head.run_id}",
        body,
        links=links,
        pipelines=[view.head.pipeline],
        refresh=REFRESH_SECONDS if going else 0,
    )


def _with_contents(body: Markup) -> Markup:
    """Fill in the list of a page's headings."""
    found = re.findall(r'<h2 id="(\w+)">([^<]+)', body)
    items = "".join(f'<li><a href="#{name}">{text}</a></li>' for name, text in found)
    return Markup(str(body).replace("<!-- contents -->", f'<ul class="keys">{items}</ul>', 1))  # noqa: S704


def nights_document(
    runs: Sequence[RunSummary],
    total: int,
    *,
    page: int,
    pipeline: str,
    trends: Mapping[str, Sequence[RunSummary]],
    links: Links,
    pipelines: list[str],
    sweeps: bool = False,
    champions: Mapping[str, Champion] | None = None,
    damaged: Sequence[str] = (),
    chosen: Filter | None = None,
    attention: Sequence[Alert] = (),
) -> str:
    """A row per run, the newest first, and how its figures moved.

    Args:
        runs: of this page of the list.
        total: runs on all pages.
        page: number of this page, from 1.
        pipeline: whose; empty for all.
        trends: pipeline → its newest runs, oldest first.
        links: where links lead.
        pipelines: that have run.
        sweeps: Whether these are trials of sweeps instead of nights.
        champions: Pipeline → what serves.
        damaged: Runs whose records cannot be read.
        chosen: What the list is narrowed down to.
        attention: What is wrong now and has no run: missing, stalled and late nights, broken YAMLs.
    """
    context = nights_context(runs, total, page=page, trends=trends)
    context |= {
        "chosen": chosen or Filter(),
        "kinds": KINDS,
        "attention": attention,
        "links": links,
        "pipeline": pipeline,
        "pipelines": pipelines,
        "sweeps": sweeps,
        "champions": champions or {},
        "knows_champions": champions is not None,
        "damaged": damaged,
    }
    here = links.nights(pipeline)
    return document(
        f"Nights of {pipeline}" if pipeline else "Nights",
        render("nights.html", context),
        links=links,
        pipelines=pipelines,
        here=here,
    )


def compare_document(
    found: Comparison, *, links: Links, pipelines: list[str], asked: bool = False
) -> str:
    """Runs side by side.

    Args:
        found: What the page shows.
        links: Where links lead; with a token, a button scores an older model on newer rows.
        pipelines: Named in the navigation.
        asked: Whether that was asked for: the page renews itself until it is done.
    """
    body = render("compare.html", {"links": links, "asked": asked, **compare_context(found)})
    waits = asked and any(pair.can_score for pair in found.pairs)
    refresh = REFRESH_SECONDS if waits else 0
    return document("Compare", body, links=links, pipelines=pipelines, refresh=refresh)


def costs_document(runs: Sequence[RunSummary], *, links: Links, pipelines: list[str]) -> str:
    """What pipelines cost, month by month."""
    body = render("costs.html", {"links": links, **costs_context(runs)})
    return document("Costs", body, links=links, pipelines=pipelines, here=links.costs())


def checks_document(gate: str, pipeline: str, *, links: Links, pipelines: list[str]) -> str:
    """What each check of a gate means, its likely causes and what to do.

    Args:
        gate: Name of the gate, without `gate_`.
        pipeline: Whose name the commands have; empty: a placeholder.
        links: Where links lead.
        pipelines: Named in the navigation.
    """
    context = {
        "gate": gate,
        "gates": GATES,
        "checks": checks_of(gate),
        "pipeline": pipeline or "PIPELINE",
        "links": links,
    }
    body = render("checks.html", context)
    return document(f"Checks of gate_{gate}", body, links=links, pipelines=pipelines)


def champion_document(
    pipeline: str,
    history: Sequence[Champion],
    known: Collection[str],
    *,
    paused: Pause | None = None,
    links: Links,
    pipelines: list[str],
) -> str:
    """Which model serves, what served before, and how to go back.

    Args:
        pipeline: whose.
        history: every change, oldest first.
        known: ids of the runs whose records are still there.
        paused: Who stopped promotions, and why; None while they go on.
        links: where links lead.
        pipelines: that have run.
    """
    retired = {each.retired for each in history if each.retired}
    context = {
        "pipeline": pipeline, "history": history, "known": known, "links": links,
        "paused": paused, "retired": retired,
    }  # fmt: skip
    return document(
        f"Champion of {pipeline}",
        render("champion.html", context),
        links=links,
        pipelines=pipelines,
        here=links.champion(pipeline),
    )


def message_document(
    title: str,
    what: str,
    *,
    links: Links,
    pipelines: Sequence[str] = (),
    to: str = "",
    text: str = "",
) -> str:
    """A page that has nothing to show but why, and one way on.

    Args:
        title: in a few words.
        what: one line: what is wrong, where, what to do.
        links: where links lead.
        pipelines: named in the navigation.
        to: address of the way on.
        text: of that link.
    """
    body = render("message.html", {"title": title, "what": what, "to_url": to, "text": text})
    return document(title, body, links=links, pipelines=list(pipelines))


def document(
    title: str,
    body: str,
    *,
    links: Links,
    pipelines: list[str],
    here: str = "",
    refresh: int = 0,
) -> str:
    """The frame around a page's content: its style inside it, and scripts that nobody serves.

    Args:
        title: as the browser's tab shows it.
        body: what `render` made.
        links: where links lead.
        pipelines: named in the navigation, where there is one.
        here: address of this page, if the navigation names it.
        refresh: Seconds after which a server's page is loaded again; 0: never.
    """
    style = Markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))  # noqa: S704 - our file
    return render(
        "document.html",
        {
            "title": title,
            "body": body,
            "style": style,
            "links": links,
            "pipelines": pipelines,
            "here": here,
            "refresh": refresh,
            "policy": inline_policy(),
            "scripts": scripts() if 'class="chart ' in body else (),
        },
    )


def render(template: str, context: Mapping[str, Any]) -> Markup:
    """Fill in one template."""
    return Markup(_environment().get_template(template).render(context))  # noqa: S704 - escaped


@cache
def _environment() -> Environment:
    # A figure that a stage left out is a dash on the page, not a night without a report.
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        number=formatting.number,
        count=formatting.count,
        signed=formatting.signed,
        interval=formatting.interval,
        duration=formatting.duration,
        in_words=in_words,
        money=formatting.money,
    )
    return environment
