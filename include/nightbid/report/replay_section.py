"""The section of a run's page on money: spend against value, and a row per bidder."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from nightbid.report.charts import Dot, Series, Words, line_chart, scatter_chart
from nightbid.report.formatting import interval, number, signed
from nightbid.report.run_view import RunView

TONES = {"candidate": "s0", "champion": "s1", "baseline": "s2", "truth": "s3"}


def replay_context(view: RunView) -> dict[str, Any]:
    """Figures and charts of the `replay` stage; empty where nothing was replayed."""
    metrics = view.stage("replay").metrics
    if not metrics.get("replayed"):
        return {"replay": None}
    bidders: dict[str, Any] = metrics["bidders"]
    ordered = [name for name in TONES if name in bidders]
    known = "expected_surplus" in bidders["candidate"]
    surplus, value = ("expected_surplus", "expected_value") if known else ("surplus", "value")
    rows = [
        {
            "name": name,
            **bidders[name],
            "surplus_text": _level(bidders[name], "surplus"),
            "expected_text": _level(bidders[name], "expected_surplus") if known else "",
            "difference": _difference(metrics["differences"].get(name), surplus),
        }
        for name in ordered
    ]
    dots = [
        Dot(bidders[name]["spend"], bidders[name][value], name, TONES[name]) for name in ordered
    ]
    chart = scatter_chart(
        dots,
        Words(
            "Spend against value",
            "What each bidder paid, and what the clicks that it won are worth.",
            "money-figures",
        ),
        x_label="spend",
        y_label=value.replace("_", " "),
    )
    pace = [
        Series(name, list(enumerate(bidders[name]["spend_by_hour"])), marks=False, tone=TONES[name])
        for name in ordered
        if "spend_by_hour" in bidders[name]
    ]
    pace_chart = Markup("")
    if pace:
        pace_chart = line_chart(
            pace,
            Words("Pace", "Spend of each bidder in each hour of the day.", "pace-figures"),
            x_label="hour, UTC",
            y_label="spend",
            zero=True,
        )
    return {
        "replay": metrics,
        "replay_rows": rows,
        "replay_known": known,
        "replay_chart": chart,
        "replay_pace": pace,
        "replay_pace_chart": pace_chart,
        "replay_rules": _rules(metrics["rules"]),
    }


def _level(bidder: dict[str, Any], name: str) -> str:
    return f"{number(bidder[name], 2)} {interval(bidder['intervals'].get(name), 2)}".strip()


def _difference(found: dict[str, Any] | None, name: str) -> str:
    if not found or name not in found:
        return ""
    each = found[name]
    return f"{signed(each['value'], 2)} {interval(each, 2, sign=True)}".strip()


def _rules(rules: dict[str, Any]) -> str:
    budget = "no budget" if rules["budget"] is None else f"a budget of {rules['budget']:,.2f}"
    return (
        f"{rules['value']:g} a positive label, {rules['pricing']} price, a bid wins if it is "
        f"{rules['wins']} the market price, {budget}"
    )
