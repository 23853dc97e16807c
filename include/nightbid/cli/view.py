"""Tables of runs and champions, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Column, Table
from rich.text import Text

from nightbid.cli.listing import Listing, text_column
from nightbid.night.attempts import current
from nightbid.night.champion import Champion
from nightbid.night.record import RunRecord, state_of

STYLE = {"done": "green", "stopped": "yellow", "failed": "red", "running": "cyan"}
USUAL = 24
"""Usual length of a run's name, in characters: pipeline and date."""


def runs_table(runs: Sequence[RunRecord], history: Sequence[Champion] = ()) -> Table:
    """Make a table with a row per run.

    Args:
        runs: Runs in the order of the rows.
        history: Changes of the champion, which show whether a promoted run still serves.
    """
    # Names of usual length stay on one line, to be copied; a narrow terminal cuts nothing.
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
        reason = newest[stage].error if stage else _activity(run) if state == "running" else ""
        table.add_row(
            run.run_id,
            run.date.isoformat(),
            Text(f"{state} at {stage}" if stage else state, STYLE[state]),
            reason or (last.summary if last else "") + since_then(run, history),
            f"{sum(record.seconds for record in records):.0f}",
            f"{run.head.started:%Y-%m-%d %H:%M}",
        )
    return table


def _activity(run: RunRecord) -> str:
    """Say what an unfinished run does now: a process that was killed leaves it unfinished."""
    from nightbid.report.run_view import RunView

    view = RunView(run)
    if view.waits_for_person:
        return "waits for approval"
    live = [f"{stage.name} {stage.live}" for stage in view.stages if stage.live]
    return ", ".join(live) or "no stage is running now"


def since_then(run: RunRecord, history: Sequence[Champion]) -> str:
    """Say whether a promoted run still serves or was withdrawn."""
    if not any(
        champion.run_id == run.run_id and champion.change == "promote" for champion in history
    ):
        return ""
    now = history[-1]
    if now.serves and now.run_id == run.run_id:
        return "; serves"
    return "; withdrawn since" if not now.serves or now.night < run.date else ""


def champion_table(history: Sequence[Champion], current: Champion | None) -> Listing:
    """Make a table with a row per change of the champion; a mark shows the serving one."""
    table = Listing(
        "", "#", "change", "run", "night", "bundle", "since (UTC)", "who", text_column("why")
    )
    for entry in history:
        serving = current is not None and entry.number == current.number
        table.add_row(
            Text("●", "green") if serving else "",
            str(entry.number),
            entry.change,
            entry.run_id,
            entry.night.isoformat(),
            entry.bundle_digest[:12],
            f"{entry.since:%Y-%m-%d %H:%M}",
            entry.by,
            entry.reason,
        )
    return table
