"""Tests the charts in a browser: a vendored script draws them from figures in the page."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re

import pytest
from browsers import new_page
from markupsafe import Markup
from nightbid.config.gate_limits import Limit
from nightbid.gates.propose import PastMeasurement, Proposal
from nightbid.report import pages
from nightbid.report.assets import FOLDER, scripts
from nightbid.report.charts import (
    Bar,
    ChartSpan,
    ChartText,
    Dot,
    Series,
    bar_chart,
    interval_chart,
    line_chart,
    scatter_chart,
    sparkline,
)
from nightbid.report.links import Links
from nightbid.report.proposal_page import proposal_page
from nightbid.report.summaries import Summaries
from nightbid.report.write import write_report

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>'\"&\u2028"
WORDS = ChartText(f"Title {EVIL}", "what it shows", "figures")


@pytest.fixture
def show(chromium, tmp_path):
    """Open charts in a page of their own; complaints of the browser fail the test."""
    page = new_page(chromium, viewport={"width": 1280, "height": 900})
    complaints = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message) or dialog.dismiss())

    def opened(*charts):
        body = Markup("").join(charts) + Markup('<table id="figures"><tr><td>1</td></tr></table>')
        path = tmp_path / "charts.html"
        path.write_text(pages.document("t", body, links=Links(), pipelines=[]), encoding="utf-8")
        page.goto(f"file://{path}")
        return page

    yield opened
    page.close()
    assert complaints == []


def test_the_vendored_chart_library_matches_its_recorded_digest():
    bundle = json.loads((FOLDER / "plot.json").read_text())
    script = (FOLDER / bundle["file"]).read_bytes()
    assert hashlib.sha256(script).hexdigest() == bundle["sha256"], "edited by hand: make charts"
    licenses = (FOLDER / "plot.licenses.txt").read_text()
    assert all(
        f"{package['name']} {package['version']}\n" in licenses for package in bundle["packages"]
    )
    assert "@observablehq/plot" in licenses
    for script_file in scripts():
        assert "</script" not in script_file.text.lower(), (
            f"{script_file.name} would end the element it is in"
        )


def test_charts_draw_missing_extreme_and_hostile_values(show):
    nan = float("nan")
    lines = [[], [(1, 0.5)], [(1, 0.5), (2, 0.5)], [(0.0, -1e9), (1.0, 1e9)], [(1, nan), (2, 3)]]
    drawn = [
        line_chart([Series(EVIL, points)], WORDS, x_label="x", y_label="y") for points in lines
    ]
    drawn += [
        line_chart([Series("a", [(0.1, 0.2), (0.5, 0.4)])], WORDS, x_label="x", y_label="y",
                   diagonal=True),
        scatter_chart([Dot(1, 2, EVIL)], WORDS, x_label="x", y_label="y"),
        interval_chart(
            [ChartSpan(EVIL, 0.1, None, None), ChartSpan(EVIL, nan, 0, nan)], WORDS, label="l"
        ),
        bar_chart([Bar("none", 0.0, "0"), Bar(EVIL, 0.0, EVIL, 0.0)], WORDS),
        sparkline({"one": None, "two": 1.0, "three": None, "four": 2.0}, WORDS),
        sparkline({"one": None}, WORDS),
    ]  # fmt: skip
    page = show(*drawn)
    assert page.locator(".chart svg").count() == len(drawn)
    assert page.locator(".chart svg").first.get_attribute("aria-label") == WORDS.title
    assert "NaN" not in page.locator("main").inner_html()
    assert page.locator("img").count() == 0


def test_a_distant_limit_does_not_shrink_the_bars(show):
    def widest(limit):
        bars = [Bar(str(value), value, "", limit) for value in (1.0, 2.0)]
        page = show(bar_chart(bars, WORDS))
        longest = max(float(bar.get_attribute("width") or 0) for bar in
                      page.locator("g[aria-label=bar] rect").all())  # fmt: skip
        return longest, page.locator("g[aria-label=tick] line").count()

    assert widest(4.0) == (pytest.approx(210, abs=2), 2)
    assert widest(3000.0) == (pytest.approx(420, abs=2), 0)


def test_points_show_a_tooltip_for_mouse_and_keyboard(show):
    days = [(dt.date(2026, 1, day), float(day)) for day in (5, 6, 7)]
    page = show(line_chart([Series("seen", days)], WORDS, x_label="day", y_label="y"))
    tip = page.locator("g[aria-label=tip]")
    page.locator("g[aria-label=dot] circle").nth(1).hover()
    assert "seen: 6" in tip.text_content()
    page.mouse.move(1200, 880)
    page.keyboard.press("Tab")
    page.keyboard.press("End")
    assert "seen: 7" in tip.text_content()
    assert "2026-01-07" in tip.text_content()
    assert page.locator("output").text_content() == "seen: 7\n2026-01-07"
    page.keyboard.press("ArrowLeft")
    assert page.locator("output").text_content() == "seen: 6\n2026-01-06"
    page.keyboard.press("Escape")
    assert not tip.text_content()


def test_chart_colors_follow_the_color_scheme_and_print_is_light(show):
    page = show(line_chart([Series("a", [(1, 1), (2, 2)])], WORDS, x_label="x", y_label="y"))

    def stroke():
        return page.locator("g[aria-label=line]").evaluate("each => getComputedStyle(each).stroke")

    light = stroke()
    page.emulate_media(color_scheme="dark")
    assert stroke() != light
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.emulate_media(media="print")
    assert stroke() == light


def test_every_chart_has_a_data_table_without_javascript(recorded_run, chromium, tmp_path):
    run = recorded_run("one")
    recorded_run("two")
    runs = Summaries(run.workspace, tmp_path / "cache").of("ctr")
    history = tuple(PastMeasurement(dt.date(2026, 1, day), float(day)) for day in (1, 2, 3))
    limit = Limit(warn=(None, 0.1), stop=(None, 0.2))
    moved = Proposal("raw", "psi:site", limit, history, None)
    documents = {
        "run": write_report(run).read_text(),
        "nights": pages.nights_document(runs, 2, page=1, pipeline="ctr", trends={"ctr": runs},
                                        links=Links(), pipelines=["ctr"]),
        "costs": pages.costs_document(runs, links=Links(), pipelines=["ctr"]),
        "proposal": proposal_page("ctr", [moved], path=tmp_path / "a", final=tmp_path / "b"),
    }  # fmt: skip
    page = new_page(chromium, java_script_enabled=False)
    charts: set[str] = set()
    for name, text in documents.items():
        path = tmp_path / f"{name}.html"
        path.write_text(text, encoding="utf-8")
        page.goto(f"file://{path}")
        for link in page.locator(".chart p a").all():
            target = link.get_attribute("href")
            assert page.locator(f"table{target} td").count(), f"{name}: {target}"
            charts.add(f"{name} {target}")
    page.context.close()
    assert {title.split()[0] for title in charts} == {"run", "nights", "costs", "proposal"}


def test_reports_run_no_injected_script(recorded_run, chromium, tmp_path):
    text = write_report(recorded_run()).read_text(encoding="utf-8")
    path = tmp_path / "forged.html"
    path.write_text(text.replace("<main", "<script>document.title = 'forged'</script><main"))
    page = new_page(chromium)
    page.goto(f"file://{path}")
    assert "forged" not in page.title()
    assert page.locator(".chart svg").count() == len(re.findall('class="chart ', text))
    page.close()
