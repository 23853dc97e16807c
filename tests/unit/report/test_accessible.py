"""axe-core checks every page, light and dark: contrast, names, roles, heading order, tables."""

from __future__ import annotations

import datetime as dt

import pytest
from browsers import new_page
from nightbid.night.champion import ChampionPointer
from nightbid.report import pages
from nightbid.report.comparison import RunComparison
from nightbid.report.links import Links
from nightbid.report.summaries import Summaries


class Served(Links):
    """A server's addresses, so that pages have navigation and forms."""

    base = "/n"

    def nights(self, pipeline=""):
        return f"/n/{pipeline}"

    def run(self, run):
        return f"/n/{run.pipeline}/{run.run_id}"

    def kind(self, pipeline, kind):
        return f"/n/{pipeline}?kind={kind}"

    def page(self, pipeline, number, query=None):
        return f"/n/{pipeline}?page={number}"

    def compare(self, pipeline):
        return f"/n/compare/{pipeline}" if pipeline else ""

    def costs(self):
        return "/n/costs"

    def champion(self, pipeline):
        return f"/n/champion/{pipeline}"

    def output(self, stage):
        return f"/n/outputs/{stage.name}"

    def log(self, run, stage):
        return f"/n/log/{stage}"

    def others(self, view):
        return [("In MLflow", "/mlflow")]


@pytest.fixture
def documents(recorded_run, tmp_path):
    """Build every page, with content and without."""
    links, known = Served(), ["ctr", "cvr"]
    run = recorded_run("fine")
    halted = recorded_run("halted", until="train", error="out of memory")
    summaries = Summaries(run.workspace, tmp_path / "cache").of("ctr")
    pointer = ChampionPointer(run.workspace, "ctr")
    before = pointer.history()
    pointer.promote(run_id="fine", night=dt.date(2026, 1, 20), bundle_uri="stages/ctr/export/1",
                    bundle_digest="1" * 64, reason="better")  # fmt: skip

    def nights(runs, pipeline):
        return pages.nights_document(
            runs, 3 * 50 if runs else 0, page=2 if runs else 1, pipeline=pipeline,
            trends={"ctr": runs} if runs else {}, links=links, pipelines=known if runs else [],
        )  # fmt: skip

    return {
        "run": pages.run_document(run, links),
        "halted": pages.run_document(halted, links),
        "nights": nights(summaries, "ctr"),
        "all nights": nights(summaries, ""),
        "no nights": nights([], ""),
        "compare": pages.compare_document(
            RunComparison.of([run, halted]), links=links, pipelines=known
        ),
        "costs": pages.costs_document(summaries, links=links, pipelines=known),
        "no costs": pages.costs_document([], links=links, pipelines=[]),
        "champion": pages.champion_document(
            "ctr", pointer.history(), ["fine"], links=links, pipelines=known
        ),
        "no champion": pages.champion_document("ctr", before, [], links=links, pipelines=known),
        "message": pages.message_document(
            "Not found", "There is no such run.", links=links, to="/n/", text="All nights"
        ),
    }


VIOLATIONS = {"resultTypes": ["violations"]}


def test_pages_have_no_accessibility_violations(documents, chromium, tmp_path):
    from axe_playwright_python.sync_playwright import Axe

    page = new_page(chromium, viewport={"width": 1280, "height": 900})
    violations = []
    for name, text in documents.items():
        path = tmp_path / "page.html"
        path.write_text(text, encoding="utf-8")
        page.goto(f"file://{path}")
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        for scheme, options in (
            ("light", {}),
            ("dark", {"runOnly": ["color-contrast", "link-in-text-block"]}),
        ):
            page.emulate_media(color_scheme=scheme)
            for violation in Axe().run(page, options=VIOLATIONS | options).response["violations"]:
                nodes = [node["html"][:120] for node in violation["nodes"][:3]]
                violations.append(f"{name}, {scheme}: {violation['id']}: {nodes}")
    page.close()
    assert violations == []


WIDER = """width => [...document.querySelectorAll("body *")].filter(each =>
  each.getBoundingClientRect().right > width + 1 && !each.closest(".wide, .skip, .hidden"))
  .map(each => each.outerHTML.slice(0, 120))"""


@pytest.mark.parametrize("width", [390, 1400])
def test_pages_fit_the_width_of_the_screen(documents, chromium, tmp_path, width):
    page = new_page(chromium, viewport={"width": width, "height": 900})
    too_wide = {}
    for name, text in documents.items():
        path = tmp_path / f"{name.replace(' ', '_')}.html"
        path.write_text(text, encoding="utf-8")
        page.goto(f"file://{path}")
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        if page.evaluate("document.documentElement.scrollWidth") > width:
            too_wide[name] = page.evaluate(WIDER, width)[:3]
            page.screenshot(path=tmp_path / f"{path.stem}-{width}.png", full_page=True)
    page.close()
    assert too_wide == {}
