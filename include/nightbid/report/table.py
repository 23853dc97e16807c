"""Table of a night for the terminal: a row per stage, and the verdict."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from nightbid.night.record import RunRecord
from nightbid.report.figures import words_of
from nightbid.report.formatting import against, duration, interval, money, number, signed
from nightbid.report.run_view import RunView, StageView

STYLE = {
    "pass": "green",
    "warn": "yellow",
    "stop": "red",
    "failed": "red",
    "reused": "cyan",
    "better": "green",
    "neutral": "yellow",
    "undecided": "yellow",
    "mixed": "yellow",
    "worse": "red",
}
MARK = {word: Text(word, style) for word, style in STYLE.items()}
"""Word of a verdict → its colored text."""


def night_table(run: RunRecord) -> Table:
    """Make a table of the stages that have run: rows, seconds, cost, verdict and summary."""
    view = RunView(run)
    total = view.total_cost
    table = Table(title=f"{view.head.pipeline}, night of {view.head.date}", title_justify="left")
    table.add_column("stage", no_wrap=True)
    for name in ("rows", "time", total.currency):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("summary", overflow="fold")
    for stage in view.stages:
        if stage.record is None:
            continue
        table.add_row(
            stage.name,
            _rows(stage),
            duration(stage.record.seconds),
            money(stage.cost, currency=False) if stage.cost else "",
            _verdict(stage),
            # Show the full text of failures.
            Text(stage.summary, no_wrap=_is_fine(stage), overflow="ellipsis"),
        )
    table.add_section()
    table.add_row("total", "", duration(view.seconds), money(total, currency=False), "", "")
    return table


def verdict_line(run: RunRecord) -> Text:
    """Make a line about the candidate against its reference, and whether it serves now."""
    view = RunView(run)
    metrics = view.evaluation
    if (ended := view.deciding) is not None:
        tail = Text.assemble(
            f"; {ended.name} ", MARK["stop" if ended.state == "stopped" else "failed"]
        )
    else:
        tail = Text()
    promoted = view.stage("promote")
    if promoted.state == "done":
        tail = Text(f"; {promoted.summary}")
    if view.behind:
        tail.append("; ").append(view.behind, "yellow")
    if not metrics:
        return Text.assemble("no candidate was evaluated", tail)
    difference = metrics["difference"]
    verdict = against(metrics["verdict"], metrics["reference"])
    before, word, after = verdict.partition(metrics["verdict"])
    words = words_of(metrics)
    figures = [
        f"{short} {number(metrics['candidate'][name])}"
        f" ({signed(difference[name]['value'])} {interval(difference[name], sign=True)})"
        for short, name in ((words.rank_short, words.rank), (words.loss_short, words.loss))
    ]
    return Text.assemble(
        f"the candidate is {before}", MARK[word], f"{after}: {', '.join(figures)}", tail
    )


def _is_fine(stage: StageView) -> bool:
    return stage.state == "done" and stage.verdict in (None, "pass")


def _rows(stage: StageView) -> str:
    if stage.manifest is None or not stage.manifest.rows.read:
        return ""
    return f"{stage.manifest.rows.written or stage.manifest.rows.read:,}"


def _verdict(stage: StageView) -> str | Text:
    record = stage.record
    if record is None:
        return ""
    if record.state == "failed":
        return MARK["failed"]
    if record.verdict:
        return MARK[record.verdict]
    if stage.name == "evaluate" and stage.metrics:
        return MARK[stage.metrics["verdict"]]
    return MARK["reused"] if record.reused else ""
