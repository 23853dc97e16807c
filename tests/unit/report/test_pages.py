"""Pages of many runs show every figure, show names as text, and say when they are empty."""

from __future__ import annotations

import datetime as dt
import json
import re
from decimal import Decimal

import pytest
from nightbid.cli import cost
from nightbid.night.champion import ChampionPointer
from nightbid.report import pages
from nightbid.report.comparison import RunComparison
from nightbid.report.index_pages import PAGE
from nightbid.report.links import Links
from nightbid.report.summaries import Summaries
from typer.testing import CliRunner

EVIL = "<img src=x onerror=alert(1)>"


class Addresses(Links):
    """Addresses as a server provides them."""

    base = "/n"

    def nights(self, pipeline=""):
        return f"/n/{pipeline}"

    def run(self, run):
        return f"/n/{run.pipeline}/{run.run_id}"

    def page(self, pipeline, number, query=None):
        return f"/n/{pipeline}?page={number}"

    def compare(self, pipeline):
        return f"/n/compare/{pipeline}"


@pytest.fixture
def summaries(tmp_path):
    return lambda run: Summaries(run.workspace, tmp_path / "cache").of("ctr")


def text_of(page: str) -> str:
    page = re.sub(r"<(style|script)\b.*?</\1>", " ", page, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


def nights(found, *, total=None, page=1, pipeline="ctr"):
    return pages.nights_document(
        found, len(found) if total is None else total, page=page, pipeline=pipeline,
        trends={"ctr": found}, links=Addresses(), pipelines=["ctr"],
    )  # fmt: skip


def test_the_run_list_shows_outcome_metrics_and_cost(recorded_run, summaries):
    recorded_run("fine", metrics={"promote": {"decision": "promoted"}})
    run = recorded_run("halted", until="train", error="out of memory")
    text = text_of(nights(summaries(run)))
    for figure in (
        "done promoted",
        "better against baseline",
        "4 pass raw warn",
        "0.7312 +0.0311 [+0.0215, +0.0407]",
        "0.8765 −0.0123 [−0.0201, −0.0045]",
        "0.0208 USD of 5",
        "13 min 00 s",
        "halted 2026-01-20 failed at train –",
        "Runs 1 to 2 of 2",
    ):
        assert figure in text, figure


def test_long_run_lists_are_paginated(recorded_run, summaries):
    listed = summaries(recorded_run())
    page = nights(listed, total=3 * PAGE, page=2)
    assert f"Runs {PAGE + 1} to {PAGE + 1} of {3 * PAGE}" in text_of(page)
    assert 'rel="prev" href="/n/ctr?page=1"' in page
    assert 'rel="next" href="/n/ctr?page=3"' in page


def test_empty_pages_say_that_nothing_has_run_yet(recorded_run, tmp_path):
    links, run = Addresses(), recorded_run()
    assert "No night has run yet" in text_of(nights([], pipeline=""))
    assert "No costs yet" in text_of(pages.costs_document([], links=links, pipelines=[]))
    none = pages.champion_document(
        "ctr", ChampionPointer(run.workspace, "ctr").history(), [], links=links, pipelines=["ctr"]
    )
    assert "ctr has no champion yet" in text_of(none)


def test_costs_are_totaled_by_month_and_pipeline(recorded_run, summaries):
    recorded_run("one")
    listed = summaries(recorded_run("two"))
    other = listed[0].model_copy(
        update={
            "pipeline": "cvr",
            "spent": tuple(
                month.model_copy(update={"month": "2026-02"}) for month in listed[0].spent
            ),
        }
    )
    text = text_of(pages.costs_document([*listed, other], links=Addresses(), pipelines=["ctr"]))
    assert "2026-01 ctr 2 0.0416 USD 0.0208 USD" in text
    assert "2026-02 cvr 1 0.0208 USD 0.0208 USD" in text
    assert "0.0625 USD at cloud prices" in text
    assert text.index("2026-02 cvr") < text.index("2026-01 ctr")


def test_cost_page_command_writes_the_page(recorded_run, tmp_path, monkeypatch):
    run = recorded_run()
    monkeypatch.setenv("NIGHTBID_WORKSPACE", str(run.workspace.root))
    monkeypatch.setenv("NIGHTBID_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "costs.html"
    done = CliRunner().invoke(cost.app, ["page", "ctr", str(out)])
    assert "1 run in" in done.output, done.output
    assert "0.0208 USD at cloud prices" in text_of(out.read_text())


def test_the_cost_page_marks_unusual_nights(recorded_run, summaries):
    (one,) = summaries(recorded_run("one"))
    assert (one.rows, one.trained) == (20_000, True)
    day = dt.timedelta(days=1)
    nights = [
        one.model_copy(
            update={
                "run_id": f"night-{at}",
                "started": one.started + at * day,
                "spent": (one.spent[0].model_copy(update={"cloud": Decimal(usd)}),),
            }
        )
        for at, usd in enumerate(("1.0", "1.2", "0.9", "1.1", "2.5", "1.4"))
    ]
    reused = nights[0].model_copy(update={"run_id": "reused", "trained": False})
    page = pages.costs_document([*reversed(nights), reused], links=Addresses(), pipelines=["ctr"])
    text = text_of(page)
    assert "night-4 2026-01-20 2.5000 USD 1.5750 USD" in text
    assert text.count("night-3 2026-01-20") == 1
    assert "reused" not in text, "a night that reused its model says nothing of cost"
    assert "The newest 6 nights that trained a model" in text
    assert "Unusual: night-4 ( 2.5000 USD )." in text.replace("(2.5000 USD)", "( 2.5000 USD )")
    assert "above the dashed line" in text
    assert "night by night" not in text_of(
        pages.costs_document([one], links=Addresses(), pipelines=["ctr"])
    )
    # The caption speaks of a line only if the chart has one; a single limit is a dot.
    for count, limited in ((3, False), (4, True)):
        page = pages.costs_document(nights[:count], links=Addresses(), pipelines=["ctr"])
        assert ("above the dashed line" in text_of(page)) is limited
        assert ("After 3 nights, a dashed line marks" in text_of(page)) is not limited
        charts = re.findall(r'<script type="application/json">(.+?)</script>', page)
        (limits,) = (
            line
            for chart in map(json.loads, charts)
            for line in chart.get("series", [])
            if line["name"] == "unusual above this line"
        )
        assert limits["marks"] is limited


def test_the_champion_page_shows_the_rollback_command(recorded_run):
    run = recorded_run("served")
    pointer = ChampionPointer(run.workspace, "ctr")
    for at in (1, 2):
        pointer.promote(
            run_id="served" if at == 1 else "gone",
            night=dt.date(2026, 1, at),
            bundle_uri="stages/ctr/export/1",
            bundle_digest=f"{at}" * 64,
            reason=f"{EVIL} reason {at}",
        )
    pointer.rollback("it was slow")
    page = pages.champion_document(
        "ctr", pointer.history(), ["served"], links=Addresses(), pipelines=["ctr"]
    )
    text = text_of(page)
    assert "served has served since" in text
    assert 'nightbid rollback ctr --to 1 --reason "why"' in text.replace("&#34;", '"')
    assert "it was slow" in text
    assert 'href="/n/ctr/served"' in page
    assert 'href="/n/ctr/gone"' not in page
    assert EVIL not in page


def test_the_compare_page_shows_runs_side_by_side(recorded_run):
    runs = [recorded_run("one"), recorded_run("two", sampling={"negative_rate": 0.25})]
    text = text_of(
        pages.compare_document(RunComparison.of(runs), links=Addresses(), pipelines=["ctr"])
    )
    for figure in (
        "0.7312 [0.7202, 0.7422]",
        "this evaluation kept no scores",
        "sampling.negative_rate 1.0 0.25",
        "Cost 0.0208 USD 0.0208 USD",
    ):
        assert figure in text, figure


def test_names_are_escaped_in_pages(recorded_run, summaries):
    metrics = {"evaluate": {"verdict": EVIL, "reference": EVIL, "rows": 1, "candidate": {}}}
    run = recorded_run(until="sample")
    (summary,) = summaries(run)
    evil = summary.model_copy(update={"run_id": EVIL, "verdict": EVIL, "pipeline": EVIL, **metrics})
    for page in (
        nights([evil], pipeline=EVIL),
        pages.costs_document([evil], links=Addresses(), pipelines=[EVIL]),
        pages.message_document(EVIL, EVIL, links=Addresses(), to="/x", text=EVIL),
    ):
        assert EVIL not in page
        assert "&lt;img" in page
