"""Commands for nights: start, list, report and compare them."""

from __future__ import annotations

import sys
from datetime import date
from typing import Annotated

import typer
from rich.table import Table

from nightbid.cli import complete, view
from nightbid.cli.dates import date_option
from nightbid.cli.listing import Listing, text_column
from nightbid.cli.output import AsJson, print_json
from nightbid.cli.root import Overrides, PipelineName, app, console, known, one_value_each
from nightbid.config.load import check_folder, find_pipeline, pipeline_names
from nightbid.config.pipeline import READ_SPLITS, Night
from nightbid.config.settings import Settings
from nightbid.errors import ConfigError
from nightbid.night.champion import ChampionPointer
from nightbid.night.record import RunRecord, runs_of
from nightbid.storage.workspace import Workspace

PANEL = "Nights"


@app.command(rich_help_panel=PANEL)
def run(
    pipeline: PipelineName,
    date_: Annotated[date, date_option("Newest day of logs.")],
    nights: Annotated[
        int, typer.Option(min=1, help="Number of consecutive nights from that date on.")
    ] = 1,
    set_: Overrides = None,
    run_id: Annotated[
        str,
        typer.Option(
            help="Name of the run; default <pipeline>-<date>.", autocompletion=complete.runs
        ),
    ] = "",
    until: Annotated[
        str,
        typer.Option(
            help="Stop after this stage, such as gate_raw.", autocompletion=complete.stages
        ),
    ] = "",
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Wait for the newest day until the deadline of `arrival`."),
    ] = False,
) -> None:
    """Run one night or several: sample, featurize, train, evaluate, gate, promote.

    Finished stages are reused and shown as such.
    """
    from nightbid.cli.night import run_nights
    from nightbid.preflight import checked_pipeline

    settings = Settings()
    overrides = tuple(set_ or ())
    with one_value_each(overrides):
        spec = checked_pipeline(pipeline, settings.pipelines, overrides, date_, settings.cache)
        run_nights(
            spec,
            first=date_,
            nights=nights,
            settings=settings,
            overrides=overrides,
            run_id=run_id,
            until=until,
            console=console,
            wait=wait,
        )


@app.command(rich_help_panel=PANEL)
def window(
    pipeline: PipelineName,
    date_: Annotated[date, date_option("Newest day of logs.")],
    set_: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Show which days a night would use for training, validation and evaluation."""
    spec = find_pipeline(pipeline, Settings().pipelines, tuple(set_ or ()))
    night = Night.of(spec, date_)
    if as_json:
        splits = {name: night.days(name) for name in READ_SPLITS if night.days(name)}
        print_json(splits)
        return
    table = Table("split", f"{spec.partition}s", "from", "to")
    for name in READ_SPLITS:
        if not (days := night.days(name)):
            continue
        table.add_row(name, str(len(days)), days[0].isoformat(), days[-1].isoformat())
    console.print(table)


@app.command(rich_help_panel=PANEL)
def pipelines(as_json: AsJson = False) -> None:
    """List the pipelines and check their YAML; exit with 2 if one is broken."""
    settings = Settings()
    faults = []
    listed = []
    check_folder(settings.pipelines)
    table = Listing("pipeline", "source", "label", "model", "schedule", text_column("description"))
    for name in pipeline_names(settings.pipelines):
        try:
            spec = find_pipeline(name, settings.pipelines)
        except ConfigError as error:
            faults.append(error)
            continue
        listed.append(
            {
                "pipeline": name,
                "source": spec.source.kind,
                "label": spec.label.column,
                "model": spec.model.architecture,
                "schedule": spec.schedule,
                "description": spec.description,
            }
        )
        table.add_row(
            name,
            spec.source.kind,
            spec.label.column,
            spec.model.architecture,
            spec.schedule or "by hand",
            spec.description,
        )
    if as_json:
        print_json({"pipelines": listed, "faults": [str(fault) for fault in faults]})
        raise typer.Exit(ConfigError.exit_code if faults else 0)
    console.print(table)
    for fault in faults:
        typer.echo(f"error: {fault}", err=True)
    if faults:
        raise typer.Exit(ConfigError.exit_code)


@app.command(rich_help_panel=PANEL)
def runs(
    pipeline: PipelineName,
    last: Annotated[int, typer.Option(min=1, help="Number of newest runs to list.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the runs of a pipeline, newest last."""
    settings = Settings()
    workspace, name = Workspace(settings.workspace), known(pipeline, settings)
    records = runs_of(workspace, name)[-last:]
    if as_json:
        from nightbid.report.summaries import summarize

        print_json([summarize(record).model_dump(mode="json") for record in records])
        return
    if not records:
        console.print(
            f"no runs of {pipeline} yet: start one with `nightbid run {pipeline} --date …`"
        )
        return
    console.print(view.runs_table(records, ChampionPointer(workspace, name).history()))


@app.command(rich_help_panel=PANEL)
def report(
    pipeline: PipelineName,
    run_id: Annotated[
        str, typer.Argument(help="Run id; default: the newest run.", autocompletion=complete.runs)
    ] = "",
) -> None:
    """Write the HTML report of a run and print its path."""
    from nightbid.report.write import write_report

    settings = Settings()
    workspace = Workspace(settings.workspace)
    name = known(pipeline, settings)
    if run_id:
        record = RunRecord.load(workspace, name, run_id)
    else:
        records = runs_of(workspace, name)
        if not records:
            raise ConfigError(
                f"no runs of {name!r} yet",
                where=settings.workspace,
                hint=f"start one with `nightbid run {name} --date …`",
            )
        record = records[-1]
    console.print(str(write_report(record)), soft_wrap=True)


@app.command(rich_help_panel=PANEL)
def compare(
    pipeline: PipelineName,
    run_ids: Annotated[
        list[str], typer.Argument(help="Two or more run ids.", autocompletion=complete.runs)
    ],
    same_rows: Annotated[
        bool,
        typer.Option(
            "--same-rows",
            help="If the rows differ, score the older model on the newer night's rows.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare runs: metrics with intervals, differences in the spec, cost."""
    from nightbid.cli.compare import compare_runs, comparison_json, score_on_same_rows

    settings = Settings()
    workspace = Workspace(settings.workspace)
    name = known(pipeline, settings)
    records = [RunRecord.load(workspace, name, run_id) for run_id in run_ids]
    if same_rows:
        score_on_same_rows(records, sys.stderr.isatty())
    if as_json:
        print_json(comparison_json(records))
        return
    console.print(compare_runs(records))


@app.command(rich_help_panel=PANEL)
def track(
    pipeline: Annotated[
        str, typer.Argument(help="Log a run of this pipeline.", autocompletion=complete.pipelines)
    ] = "",
    run_id: Annotated[
        str, typer.Argument(help="Run id; default: the newest run.", autocompletion=complete.runs)
    ] = "",
    replay: Annotated[bool, typer.Option("--replay", help="Log all queued runs.")] = False,
) -> None:
    """Log a run in MLflow, or all runs that were queued while MLflow was down."""
    from nightbid.cli.track import track_runs

    settings = Settings()
    if bool(pipeline) == replay:
        raise ConfigError(
            "neither a pipeline nor --replay is given",
            where="track",
            hint="`nightbid track PIPELINE [RUN]` or `nightbid track --replay`",
        )
    name = known(pipeline, settings) if pipeline else ""
    console.print(track_runs(settings, name, run_id), soft_wrap=True, highlight=False)
