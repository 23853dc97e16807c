"""The report in a real browser fits, makes no requests, and differs in light and dark mode."""

from __future__ import annotations

from browsers import new_page
from nightbid.report.write import write_report

WIDTH = 1280


def test_the_report_fits_the_screen_and_makes_no_requests(recorded_run, chromium):
    name = "a_column_whose_name_never_ends_" * 8
    run = recorded_run(
        metrics={"gate_raw": {"checks": [{"name": name, "verdict": "warn", "observed": name,
                                          "expected": name, "detail": name}]}},
        overrides=(f"features.{name}=x",),
    )  # fmt: skip
    address = f"file://{write_report(run)}"
    grounds = []
    for scheme in ("light", "dark"):
        page = new_page(chromium, viewport={"width": WIDTH, "height": 800}, color_scheme=scheme)
        addresses, complaints = [], []
        page.on("request", lambda request, addresses=addresses: addresses.append(request.url))
        page.on("console", lambda message, complaints=complaints: complaints.append(message.text))
        page.goto(address)
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") <= WIDTH
        assert addresses == [address]
        assert complaints == []
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        page.close()
    assert grounds[0] != grounds[1]


FRAMED = """report => {
  const frame = document.createElement("iframe");
  frame.sandbox = "allow-scripts";
  frame.src = URL.createObjectURL(new Blob([report], {type: "text/html"}));
  frame.width = 715;
  document.body.append(frame);
}"""


def test_the_report_works_inside_mlflows_iframe(chromium, recorded_run):
    report = write_report(recorded_run()).read_text(encoding="utf-8")
    page = new_page(chromium)
    page.goto("about:blank")
    page.evaluate(FRAMED, report)
    frame = page.frame_locator("iframe")
    # Scripts run there and draw; a stage's message is next to it, not behind a scroll bar.
    frame.get_by_role("img", name="Calibration curve").wait_for()
    wide = frame.locator(".wide", has=page.locator("table.stages"))
    assert wide.evaluate("each => each.scrollWidth <= each.clientWidth")
    page.close()
