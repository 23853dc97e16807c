"""The report in a real browser: it fits, it asks nobody for anything, light and dark differ."""

from __future__ import annotations

import shutil

import pytest
from nightbid.report.html import write_report

WIDTH = 1280


@pytest.fixture(scope="module")
def browser():
    """A Chromium, where there is one."""
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
        except Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield started
        started.close()


def test_it_fits_and_asks_nobody(recorded_run, browser):
    name = "a_column_whose_name_never_ends_" * 8
    run = recorded_run(
        metrics={"gate_raw": {"checks": [{"name": name, "verdict": "warn", "observed": name,
                                          "expected": name, "detail": name}]}},
        overrides=(f"features.{name}=x",),
    )  # fmt: skip
    address = f"file://{write_report(run)}"
    grounds = []
    for scheme in ("light", "dark"):
        page = browser.new_page(viewport={"width": WIDTH, "height": 800}, color_scheme=scheme)
        asked, complaints = [], []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.on("console", lambda message, complaints=complaints: complaints.append(message.text))
        page.goto(address)
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") <= WIDTH
        assert asked == [address]
        assert complaints == []
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        page.close()
    assert grounds[0] != grounds[1]
