"""Tables of runs and champions, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Column, Table

from nightbid.night.attempts import current
from nightbid.night.champion import Champion
from nightbid.night.record import RunRecord, state_of

STYLE = {"done": "green", "stopped": "yellow", "failed": "red", "running": "cyan"}
USUAL = 24
"""Length of a run's name, such as that of pipeline and date."""


def runs_table(runs: Sequence[RunRecord]) -> Table:
    """One row per run."""
    # A name of usual length stays in one piece, to be copied; nothing is cut in a narrow terminal.
    whole = max((len(run.run_id) for run in runs), default=0) <= USUAL
    titles = ("run", "night", "state", "verdict", "seconds", "started (UTC)")
    columns = [Column(title, overflow="fold") for title in titles]
    columns[0].no_wrap = whole
    table = Table(*columns)
    for run in runs:
        records = run.records()
        newest = current(records)
        state, stage = state_of(run.head, newest)
        last = newest.get("promote") or newest.get("evaluate")
        table.add_row(
            run.run_id,
            run.date.isoformat(),
            f"[{STYLE[state]}]{state}{f' at {stage}' if stage else ''}[/]",
            escape(last.summary) if last else "",
            f"{sum(record.seconds for record in records):.0f}",
            f"{run.head.started:%Y-%m-%d %H:%M}",
        )
    return table


def champion_table(history: Sequence[Champion], current: Champion | None) -> Table:
    """One row per change of the pointer, the serving one marked."""
    table = Table("", "#", "change", "run", "night", "bundle", "since (UTC)", "who", "why")
    for entry in history:
        serving = current is not None and entry.number == current.number
        table.add_row(
            "[green]●[/]" if serving else "",
            str(entry.number),
            entry.change,
            entry.run_id,
            entry.night.isoformat(),
            entry.bundle_digest[:12],
            f"{entry.since:%Y-%m-%d %H:%M}",
            escape(entry.by),
            escape(entry.reason),
        )
    return table
