"""Section of a run's page on the replay: spend and value, with a row per bidder."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from nightbid.report.charts import ChartText, Dot, Series, line_chart, scatter_chart
from nightbid.report.formatting import interval, number, signed
from nightbid.report.run_view import RunView

ESTIMATES = {
    "dm": "DM", "ips": "IPS", "snips": "SNIPS", "dr": "DR", "sndr": "SNDR",
    "switch_dr": "Switch-DR", "dr_os": "DRos",
}  # fmt: skip
TONES = {"candidate": "s0", "champion": "s1", "baseline": "s2", "truth": "s3"}


def replay_context(view: RunView) -> dict[str, Any]:
    """Get the metrics and charts of the `replay` stage; empty if nothing was replayed."""
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
        ChartText(
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
            ChartText("Pace", "Spend of each bidder in each hour of the day.", "pace-figures"),
            x_label="hour, UTC",
            y_label="spend",
            zero=True,
        )
    return {
        "replay": metrics,
        "replay_rows": rows,
        "replay_known": known,
        "replay_conversions": any(bidders[name].get("conversions") for name in ordered),
        "replay_chart": chart,
        "replay_pace": pace,
        "replay_pace_chart": pace_chart,
        "replay_rules": _rules(metrics["rules"]),
    }


def policy_context(view: RunView) -> dict[str, Any]:
    """Get the rows of the off-policy evaluation; empty if there is no `policy` block."""
    evaluation = view.stage("replay").metrics.get("policy")
    if not evaluation:
        return {"policy": None}
    rows = []
    for name, figures in evaluation["policies"].items():
        row = {"name": name, "refused": figures.get("refused", ""), "truth": figures.get("truth")}
        if not row["refused"]:
            row |= {
                "estimates": [_estimate(figures["estimates"].get(key)) for key in ESTIMATES],
                "gain": _estimate(figures["gains"]["dr"], sign=True),
                "rows": figures["effective_sample_size"],
                "largest": figures["largest_weight"],
            }
        rows.append(row)
    return {
        "policy": evaluation,
        "policy_rows": rows,
        "policy_titles": list(ESTIMATES.values()),
        "policy_logged": _estimate(evaluation["logged"]),
        "policy_known": any(row["truth"] is not None for row in rows),
        "policy_against": _estimate(evaluation["candidate_less_champion"], sign=True),
    }


def _estimate(estimate: dict[str, float] | None, *, sign: bool = False) -> str:
    if not estimate:
        return ""
    value = signed(estimate["value"], 4) if sign else number(estimate["value"], 4)
    return f"{value} {interval(estimate, 4, sign=sign)}".strip()


def _level(bidder: dict[str, Any], name: str) -> str:
    return f"{number(bidder[name], 2)} {interval(bidder['intervals'].get(name), 2)}".strip()


def _difference(differences: dict[str, Any] | None, name: str) -> str:
    if not differences or name not in differences:
        return ""
    difference = differences[name]
    return f"{signed(difference['value'], 2)} {interval(difference, 2, sign=True)}".strip()


def _rules(rules: dict[str, Any]) -> str:
    budget = "no budget" if rules["budget"] is None else f"a budget of {rules['budget']:,.2f}"
    return (
        f"{rules['value']:g} a positive label, {rules['pricing']} price, a bid wins if it is "
        f"{rules['wins']} the market price, {budget}"
    )
