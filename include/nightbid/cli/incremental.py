"""`nightbid incremental`: shows the days that incremental nights have learned, and undoes days."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

import typer

from nightbid.cli.champion import person
from nightbid.cli.dates import FORM, read_date
from nightbid.cli.listing import Listing, text_column
from nightbid.cli.output import AsJson, print_json
from nightbid.cli.root import PipelineName, console, known
from nightbid.config.load import find_pipeline
from nightbid.config.settings import Settings
from nightbid.counts import counted
from nightbid.errors import ConfigError
from nightbid.night.champion import ChampionPointer
from nightbid.night.incremental import DayDecision, LearnedDays, chain, decide, undone
from nightbid.partitions import HourPartition
from nightbid.report.formatting import DASH, number
from nightbid.storage.workspace import Workspace

app = typer.Typer(no_args_is_help=True)
DayArgument = Annotated[
    dt.date, typer.Argument(parser=read_date, metavar=FORM, help="Day of logs.")
]
Reason = Annotated[str, typer.Option(help="Why; kept with the champion's history.")]


@app.command()
def show(pipeline: PipelineName, as_json: AsJson = False) -> None:
    """List the days that each night learned, and the metrics on each day before it was learned."""
    settings = Settings()
    workspace = Workspace(settings.workspace)
    name = known(pipeline, settings)
    nights, decisions = list(chain(workspace, name)), undone(workspace, name)
    if as_json:
        print_json(
            {
                "nights": [
                    {"run": run.run_id, "night": run.date, **learned.model_dump(mode="json")}
                    for run, learned in nights
                ],
                "undone": [decision.model_dump(mode="json") for decision in decisions.values()],
            }
        )
        return
    if not nights:
        console.print(
            f"no night of {pipeline} was trained incrementally: set train.mode: incremental",
            highlight=False,
        )
    else:
        table = Listing(
            "night", text_column("learned"), "scored first", "NE", "±", "AUC", "calibration",
            text_column("why"),
        )  # fmt: skip
        for run, learned in nights:
            scored = [point for point in learned.curve if point.night == run.date]
            table.add_row(
                str(run.date),
                _learned(learned),
                "\n".join(str(point.day) for point in scored) or DASH,
                *(
                    "\n".join(number(getattr(point, key), 4) for point in scored) or DASH
                    for key in ("normalized_entropy", "error", "auc", "calibration")
                ),
                learned.why_full,
            )
        console.print(table)
    for day, decision in decisions.items():
        console.print(
            f"{day} is undone by {decision.by or '?'}: {decision.reason}",
            markup=False,
            highlight=False,
        )


def _partition(name: str, settings: Settings, day: dt.date) -> dt.date:
    """Get the partition of a date: the week that contains a day; hours must be given in full."""
    spec = find_pipeline(name, settings.pipelines)
    if spec.partition == "hour" and not isinstance(day, HourPartition):
        raise ConfigError(
            f"{day} is a day, but {name} learns hours", where=name, hint="write YYYY-MM-DDTHH"
        )
    return spec.partition_at(day)


@app.command()
def undo(pipeline: PipelineName, day: DayArgument, reason: Reason = "") -> None:
    """Exclude a day, or unlearn it: the next night resumes from the state before that day."""
    settings = Settings()
    workspace, name = Workspace(settings.workspace), known(pipeline, settings)
    partition = _partition(name, settings, day)
    _must_have_a_reason(reason)
    if partition in undone(workspace, name):
        raise ConfigError(
            f"{partition} is already undone", where=name, hint=f"`nightbid incremental show {name}`"
        )
    _keep(workspace, name, "undo", partition, reason)
    nights = list(chain(workspace, name))
    affected = [(run, learned) for run, learned in nights if partition in learned.days]
    before = [run.date for run, _ in nights if affected and run.date < affected[0][0].date]
    if not affected:
        effect = "no night has learned it, and none will"
    elif partition not in nights[-1][1].days:
        effect = "the newest night has not learned it, and the next one continues from there"
    elif before:
        effect = (
            f"the next night continues from the state of {before[-1]}, or learns all other days if"
            " that is too old"
        )
    else:
        effect = "the next night learns all other days of its window"
    console.print(f"{name}: {partition} is undone; {effect}", highlight=False, soft_wrap=True)
    champion = ChampionPointer(workspace, name).current()
    if champion is not None and any(run.run_id == champion.run_id for run, _ in affected):
        console.print(
            f"champion #{champion.number} learned it and serves: to replace it,"
            f" `nightbid rollback {name} --reason …`",
            highlight=False,
            soft_wrap=True,
        )


@app.command()
def restore(pipeline: PipelineName, day: DayArgument, reason: Reason = "") -> None:
    """Let nights learn an undone day again, if it is in their window and newer than learned days.

    If later days were learned already, the day is learned only by the next full training.
    """
    settings = Settings()
    workspace, name = Workspace(settings.workspace), known(pipeline, settings)
    _must_have_a_reason(reason)
    day = _partition(name, settings, day)
    if day not in undone(workspace, name):
        raise ConfigError(
            f"{day} was not undone", where=name, hint=f"`nightbid incremental show {name}`"
        )
    _keep(workspace, name, "restore", day, reason)
    console.print(
        f"{name}: {day} is learned again, with the next full training at the latest",
        highlight=False,
    )


def _keep(workspace: Workspace, name: str, change: str, day: dt.date, reason: str) -> None:
    decide(
        workspace,
        name,
        DayDecision.model_validate(
            {"change": change, "day": day, "reason": reason, "at": dt.datetime.now(dt.UTC),
             "by": person()}
        ),
    )  # fmt: skip


def _must_have_a_reason(reason: str) -> None:
    if not reason:
        raise ConfigError("a decision on a day needs a reason", hint="add --reason '…'")


def _learned(learned: LearnedDays) -> str:
    if learned.why_full:
        return f"all {counted(len(learned.fresh), 'day')}"
    return ", ".join(map(str, learned.fresh))
