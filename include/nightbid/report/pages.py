"""Whole pages from templates. Every value is escaped: names of columns and slices are data."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, FileSystemLoader
from markupsafe import Markup

from nightbid.report import words
from nightbid.report.links import Links
from nightbid.report.run_page import run_context
from nightbid.report.view import RunView
from nightbid.runs import RunRecord

TEMPLATES = Path(__file__).parent / "templates"


def run_document(run: RunRecord, links: Links | None = None) -> str:
    """A self-contained document of one run, at whatever point it is.

    Args:
        run: finished, failed, stopped or still going.
        links: where its links lead; default: nowhere.
    """
    view, links = RunView(run), links or Links()
    body = render("run.html", {"view": view, "links": links, **run_context(view)})
    return document(f"{view.head.run_id}", body, links=links, pipelines=[view.head.pipeline])


def document(title: str, body: str, *, links: Links, pipelines: list[str]) -> str:
    """The frame around a page's content, its style inside it.

    Args:
        title: as the browser's tab shows it.
        body: what `render` made.
        links: where links lead.
        pipelines: named in the navigation, where there is one.
    """
    style = Markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))  # noqa: S704 - our file
    return render(
        "document.html",
        {"title": title, "body": body, "style": style, "links": links, "pipelines": pipelines},
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
        number=words.number,
        count=words.count,
        signed=words.signed,
        interval=words.interval,
        duration=words.duration,
        money=words.money,
    )
    return environment
