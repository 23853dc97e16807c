"""Renders whole pages from templates. All values are escaped, such as names of columns."""

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
from nightbid.night.champion import Champion
from nightbid.night.pauses import Pause
from nightbid.night.record import RunRecord
from nightbid.report import formatting
from nightbid.report.assets import inline_policy, scripts
from nightbid.report.compare_page import compare_context
from nightbid.report.comparison import RunComparison
from nightbid.report.cost_trend import cost_trend
from nightbid.report.index_pages import KINDS, Filter, costs_context, nights_context
from nightbid.report.links import Links
from nightbid.report.run_page import run_context
from nightbid.report.run_view import RunView
from nightbid.report.summaries import RunSummary
from nightbid.report.what_now import is_live, what_now

REFRESH_SECONDS = 15
"""Seconds after which a page on a server is reloaded while a stage runs."""
TEMPLATES = Path(__file__).parent / "templates"


def run_document(
    run: RunRecord, links: Links | None = None, *, nights: Sequence[RunSummary] = ()
) -> str:
    """Render a self-contained document of a run in any state.

    Args:
        run: Record of the run: finished, failed, stopped or running.
        links: Link targets; None: no links.
        nights: Runs of the pipeline, oldest first, for the trend of costs up to this run; later
            runs are ignored.
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
    """Insert the list of a page's headings."""
    headings = re.findall(r'<h2 id="(\w+)">([^<]+)', body)
    items = "".join(f'<li><a href="#{name}">{text}</a></li>' for name, text in headings)
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
    """Render the list of runs, newest first, with the trends of their metrics.

    Args:
        runs: Runs on this page of the list.
        total: Number of runs on all pages.
        page: Number of this page, from 1.
        pipeline: Name of the pipeline; empty: all pipelines.
        trends: Pipeline → its newest runs, oldest first.
        links: Link targets.
        pipelines: Names of the pipelines that have run.
        sweeps: Whether the runs are trials of sweeps instead of nights.
        champions: Pipeline → its champion; None: not shown.
        damaged: Names of runs whose records cannot be read.
        chosen: Filter of the list; None: no filter.
        attention: Current alerts without a run: missing, stalled and late nights, broken YAMLs.
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
    address = links.nights(pipeline)
    return document(
        f"Nights of {pipeline}" if pipeline else "Nights",
        render("nights.html", context),
        links=links,
        pipelines=pipelines,
        address=address,
    )


def compare_document(
    comparison: RunComparison, *, links: Links, pipelines: list[str], requested: bool = False
) -> str:
    """Render the comparison of runs.

    Args:
        comparison: Comparison to show.
        links: Link targets; with a token, a button scores an older model on newer rows.
        pipelines: Names of pipelines in the navigation.
        requested: Whether that scoring was requested: the page reloads until it is done.
    """
    body = render(
        "compare.html", {"links": links, "asked": requested, **compare_context(comparison)}
    )
    waits = requested and any(pair.can_score for pair in comparison.pairs)
    refresh = REFRESH_SECONDS if waits else 0
    return document("Compare", body, links=links, pipelines=pipelines, refresh=refresh)


def costs_document(runs: Sequence[RunSummary], *, links: Links, pipelines: list[str]) -> str:
    """Render the costs of pipelines by month."""
    body = render("costs.html", {"links": links, **costs_context(runs)})
    return document("Costs", body, links=links, pipelines=pipelines, address=links.costs())


def checks_document(gate: str, pipeline: str, *, links: Links, pipelines: list[str]) -> str:
    """Render the meaning, likely causes and remedies of a gate's checks.

    Args:
        gate: Name of the gate, without `gate_`.
        pipeline: Name of the pipeline in the commands; empty: a placeholder.
        links: Link targets.
        pipelines: Names of pipelines in the navigation.
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
    """Render the serving model, its predecessors, and how to roll back.

    Args:
        pipeline: Name of the pipeline.
        history: All changes of the champion, oldest first.
        known: Ids of the runs whose records still exist.
        paused: User and reason of a pause of promotions; None: promotions are not paused.
        links: Link targets.
        pipelines: Names of the pipelines that have run.
    """
    retired = {change.retired for change in history if change.retired}
    context = {
        "pipeline": pipeline, "history": history, "known": known, "links": links,
        "paused": paused, "retired": retired,
    }  # fmt: skip
    return document(
        f"Champion of {pipeline}",
        render("champion.html", context),
        links=links,
        pipelines=pipelines,
        address=links.champion(pipeline),
    )


def message_document(
    title: str,
    message: str,
    *,
    links: Links,
    pipelines: Sequence[str] = (),
    to: str = "",
    text: str = "",
) -> str:
    """Render a page with a message and a link, for example for an error.

    Args:
        title: Short title.
        message: One-line message: what is wrong, where, and what to do.
        links: Link targets.
        pipelines: Names of pipelines in the navigation.
        to: Address of the link; empty: no link.
        text: Text of the link.
    """
    body = render("message.html", {"title": title, "what": message, "to_url": to, "text": text})
    return document(title, body, links=links, pipelines=list(pipelines))


def document(
    title: str,
    body: str,
    *,
    links: Links,
    pipelines: list[str],
    address: str = "",
    refresh: int = 0,
) -> str:
    """Render the frame around the content of a page, with inline styles and inline scripts.

    Args:
        title: Title for the browser tab.
        body: Content of the page, from `render`.
        links: Link targets.
        pipelines: Names of pipelines in the navigation, if there is one.
        address: Address of this page, if the navigation contains it.
        refresh: Seconds after which a page on a server is reloaded; 0: never.
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
            "here": address,
            "refresh": refresh,
            "policy": inline_policy(),
            "scripts": scripts() if 'class="chart ' in body else (),
        },
    )


def render(template: str, context: Mapping[str, Any]) -> Markup:
    """Render a template."""
    return Markup(_environment().get_template(template).render(context))  # noqa: S704 - escaped


@cache
def _environment() -> Environment:
    # A missing metric becomes a dash on the page and does not fail the report.
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
        counted=formatting.counted,
        signed=formatting.signed,
        interval=formatting.interval,
        duration=formatting.duration,
        in_words=in_words,
        money=formatting.money,
    )
    return environment
