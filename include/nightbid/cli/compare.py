"""`nightbid compare`: runs side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from nightbid.evaluation.rescore import rescore
from nightbid.night.record import RunRecord
from nightbid.report.comparison import RunComparison, RunPair, older_and_newer
from nightbid.report.figures import words_of
from nightbid.report.formatting import DASH, count, duration, interval, money, number, signed
from nightbid.report.run_view import RunView
from nightbid.report.table import MARK

SHORTER = {
    "Normalized entropy": "norm. entropy",
    "Normalized deviance": "norm. deviance",
    "Gini": "Gini",
}


def compare_runs(runs: Sequence[RunRecord]) -> RenderableType:
    """Show metrics with intervals, paired differences, spec changes and cost, a column per run.

    Raises:
        ConfigError: There are fewer than two different runs.
    """
    comparison = RunComparison.of(runs)
    parts: list[RenderableType] = [_figures(comparison)]
    parts.append(_pairs(comparison))
    if comparison.changed:
        table = Table(
            _whole("spec"),
            *_names(comparison.views),
            title="Different settings",
            title_justify="left",
        )
        for row in comparison.changed:
            table.add_row(row.key, *[DASH if value is None else value for value in row.values])
        parts.append(table)
    else:
        parts.append("The settings are the same.")
    return Group(*parts)


def score_on_same_rows(runs: Sequence[RunRecord], show: bool) -> None:
    """Score older models on newer rows, so that every run can be paired with the first.

    Args:
        runs: Runs to compare; the others are compared with the first one.
        show: Whether to show progress on standard error.

    Raises:
        ConfigError: Two runs cannot be compared on the same rows.
        NightbidError: An output is missing or damaged.
    """
    for pair in RunComparison.of(runs).pairs:
        if not pair.why_not:
            continue
        other = next(run for run in runs if run.run_id == pair.run_id)
        with Console(stderr=True, quiet=not show).status("scoring"):
            rescore(*older_and_newer(runs[0], other))


def comparison_json(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """Get the content of `compare_runs` as JSON.

    Raises:
        ConfigError: There are fewer than two different runs.
    """
    comparison = RunComparison.of(runs)
    return {
        "runs": [
            {
                "run_id": view.head.run_id,
                "night": view.head.date,
                "state": view.state,
                "verdict": view.evaluation.get("verdict"),
                "reference": view.evaluation.get("reference"),
                "rows": view.evaluation.get("rows"),
                "figures": view.evaluation.get("candidate"),
                "intervals": view.evaluation.get("intervals"),
                "seconds": view.seconds,
                "cost": {"amount": str(view.total_cost.amount),
                         "currency": view.total_cost.currency},
            }
            for view in comparison.views
        ],
        "paired": [
            {"run_id": pair.run_id, "why_not": pair.why_not, "rows_of": pair.rows_of,
             "differences": pair.differences}
            for pair in comparison.pairs
        ],
        "changed": [{"key": row.key, "values": row.values} for row in comparison.changed],
    }  # fmt: skip


def _whole(title: str) -> Column:
    """Make a column of names that users may copy: folded if there is no room, never cut."""
    return Column(title, overflow="fold")


def _names(views: Sequence[RunView]) -> list[str]:
    return [view.head.run_id for view in views]


def _figures(comparison: RunComparison) -> Table:
    views = comparison.views
    codes = dict(zip((view.head.run_id for view in views), comparison.codes, strict=True))
    table = Table("", *_names(views), title="The candidates", title_justify="left")
    rows: dict[str, Callable[[RunView], str | Text]] = {
        "night": lambda view: view.head.date.isoformat(),
        "state": lambda view: view.state,
        "verdict": _verdict,
        "model": lambda view: str(view.stage("train").metrics.get("architecture", DASH)),
        "parameters": lambda view: count(view.stage("train").metrics.get("parameters")),
        "code": lambda view: codes[view.head.run_id][:12] or DASH,
        "evaluation rows": lambda view: count(view.evaluation.get("rows")),
    }
    for title, write in rows.items():
        table.add_row(title, *[write(view) for view in views])
    table.add_section()
    for name, title in words_of(views[0].evaluation).names.items():
        table.add_row(_short(title), *[_level(view, name) for view in views])
    table.add_section()
    latencies = [view.stage("load_test").metrics.get("latency_ms") or {} for view in views]
    table.add_row("p99, ms", *[number(latency.get("p99"), 2) for latency in latencies])
    table.add_row("stage time", *[duration(view.seconds) for view in views])
    table.add_row("cost", *[money(view.total_cost) for view in views])
    for stage in dict.fromkeys(
        stage_view.name for view in views for stage_view in view.stages if stage_view.cost
    ):
        table.add_row(
            f"  {stage}", *[money(view.stage(stage).cost, currency=False) for view in views]
        )
    return table


def _verdict(view: RunView) -> str | Text:
    metrics = view.evaluation
    if not metrics:
        return DASH
    return Text.assemble(MARK[metrics["verdict"]], f" (against {metrics['reference']})")


def _level(view: RunView, name: str) -> str:
    metrics = view.evaluation
    value = number((metrics.get("candidate") or {}).get(name))
    bounds = interval((metrics.get("intervals") or {}).get(name))
    return f"{value} {bounds}".strip()


def _pairs(comparison: RunComparison) -> Table:
    first = comparison.views[0].head.run_id
    words = words_of(comparison.views[0].evaluation)
    compared = (words.rank, *words.losses)
    table = Table(
        _whole(f"minus {first}"),
        *[_short(words[name]) for name in compared],
        title="On the same rows, paired over users, 95% intervals",
        title_justify="left",
    )
    for pair in comparison.pairs:
        if pair.why_not:
            hint = "; --same-rows scores the older model on them" if pair.can_score else ""
            why = Text(pair.why_not + hint, "dim")
            table.add_row(pair.run_id, why, *[DASH] * (len(compared) - 1))
            continue
        shown = pair.run_id + (f" (rows of {pair.rows_of})" if pair.rows_of else "")
        table.add_row(
            shown,
            *[_difference(pair, name, less=name in words.losses) for name in compared],
        )
    return table


def _short(title: str) -> str:
    """Lowercase the first letter of a title, but not of an abbreviation."""
    return SHORTER.get(title) or (title if title[:2].isupper() else title.lower())


def _difference(pair: RunPair, name: str, *, less: bool) -> str | Text:
    difference = pair.differences[name]
    text = f"{signed(difference['value'], 5)} {interval(difference, 5, sign=True)}".strip()
    low, high = difference["low"], difference["high"]
    if low is None or high is None or low <= 0 <= high:
        return text
    better = high < 0 if less else low > 0
    return Text(text, "green" if better else "red")
