"""The report in a real browser: it fits, it asks nobody for anything, light and dark differ."""

from __future__ import annotations

from nightbid.report.html import write_report

WIDTH = 1280


def test_it_fits_and_asks_nobody(recorded_run, chromium):
    name = "a_column_whose_name_never_ends_" * 8
    run = recorded_run(
        metrics={"gate_raw": {"checks": [{"name": name, "verdict": "warn", "observed": name,
                                          "expected": name, "detail": name}]}},
        overrides=(f"features.{name}=x",),
    )  # fmt: skip
    address = f"file://{write_report(run)}"
    grounds = []
    for scheme in ("light", "dark"):
        page = chromium.new_page(viewport={"width": WIDTH, "height": 800}, color_scheme=scheme)
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
