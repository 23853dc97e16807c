"""Commands that maintain an installation."""

from __future__ import annotations

from datetime import UTC
from pathlib import Path
from typing import Annotated

import typer

from nightbid.cli import complete
from nightbid.cli.listing import Listing, text_column
from nightbid.cli.output import AsJson, print_json
from nightbid.cli.root import app, console, known
from nightbid.config.settings import Settings
from nightbid.errors import StageError
from nightbid.storage.workspace import Workspace

PANEL = "Upkeep"


@app.command(rich_help_panel=PANEL)
def watch(
    pipelines: Annotated[
        list[str] | None,
        typer.Argument(
            help="Also watch these pipelines if their schedule has not started a night yet.",
            autocompletion=complete.pipelines,
        ),
    ] = None,
    once: Annotated[
        bool,
        typer.Option("--once", help="Check once, for cron; exit code 6 if there is a new alert."),
    ] = False,
    every: Annotated[float, typer.Option(min=1, max=86_400, help="Seconds between checks.")] = 60,
    missing: Annotated[
        float,
        typer.Option(
            min=0, help="Minutes after its scheduled time until a night counts as missing."
        ),
    ] = 10,
    stalled: Annotated[
        float,
        typer.Option(
            min=1, max=1e6, help="Minutes without progress until a night counts as stalled."
        ),
    ] = 10,
    late: Annotated[
        float,
        typer.Option(min=1, max=1e6, help="Minutes after its start until a night counts as late."),
    ] = 360,
    sign: Annotated[
        Path | None, typer.Option(help="File to touch after each check, for a health check.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send alerts about nights that are missing, stalled or late, independently of Airflow.

    Reads only the workspace and the YAMLs; sends to NIGHTBID_STOP_WEBHOOK and NIGHTBID_MAIL_TO.
    """
    from nightbid.alerts.watch import Patience
    from nightbid.cli.watch import watch_nights

    news = watch_nights(
        Settings(),
        expected=pipelines or (),
        patience=Patience(missing, stalled, late),
        every=every,
        once=once,
        sign=sign,
        console=console,
        as_json=as_json,
    )
    if news:
        raise typer.Exit(StageError.exit_code)


@app.command(rich_help_panel=PANEL)
def audit(
    pipeline: Annotated[
        str | None,
        typer.Argument(
            help="Name of a pipeline; default: all that have records in the workspace.",
            autocompletion=complete.pipelines,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List who promoted, rolled back, approved, overrode, paused or erased what, when and why."""
    from nightbid.audit import all_decisions, decisions

    settings = Settings()
    workspace = Workspace(settings.workspace)
    if pipeline is None:
        history = all_decisions(workspace)
    else:
        history = decisions(workspace, known(pipeline, settings))
    if as_json:
        print_json([decision.model_dump(mode="json") for decision in history])
        return
    if not history:
        console.print(f"no decision is recorded for {pipeline or 'any pipeline'} yet")
        return
    where = [] if pipeline else ["pipeline"]
    table = Listing("when (UTC)", *where, "who", text_column("what"), text_column("why"))
    for decision in history:
        table.add_row(
            f"{decision.at.astimezone(UTC):%Y-%m-%d %H:%M}",
            *([decision.pipeline or "all"] if where else []),
            decision.by or "?",
            decision.what,
            decision.reason,
        )
    console.print(table)


@app.command(rich_help_panel=PANEL)
def schema(
    folder: Annotated[Path, typer.Argument(help="Folder to write to.")] = Path("docs"),
) -> None:
    """Write the reference of the pipeline YAML and its JSON schema for editors."""
    from nightbid.config.document import schema_text
    from nightbid.config.reference import reference

    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("yaml.md", reference()), ("pipeline.schema.json", schema_text())):
        (folder / name).write_text(text, encoding="utf-8")
        console.print(str(folder / name), soft_wrap=True)
