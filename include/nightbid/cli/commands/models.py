"""Commands for models: champions, the value of features, sweeps and rehearsals."""

from __future__ import annotations

import logging
import sys
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from nightbid.cli import complete, view
from nightbid.cli.dates import date_option
from nightbid.cli.output import AsJson, print_json
from nightbid.cli.root import Overrides, PipelineName, app, console, known
from nightbid.config.load import find_pipeline
from nightbid.config.settings import Settings
from nightbid.errors import ConfigError
from nightbid.night.champion import ChampionPointer
from nightbid.night.pauses import PromotionPauses
from nightbid.night.progress import LogProgress
from nightbid.night.record import RunRecord
from nightbid.storage.workspace import Workspace

PANEL = "Models"


@app.command(rich_help_panel=PANEL)
def champion(
    pipeline: Annotated[
        str,
        typer.Argument(
            help="A pipeline; or `pause`, `resume`, `retire` or `promote` before it.",
            autocompletion=complete.pipelines,
        ),
    ],
    of: Annotated[
        str,
        typer.Argument(
            help="The pipeline, after `pause`, `resume`, `retire` or `promote`.",
            autocompletion=complete.pipelines,
        ),
    ] = "",
    which: Annotated[
        str,
        typer.Argument(help="With `retire`: number in the history. With `promote`: name of a run."),
    ] = "",
    reason: Annotated[str, typer.Option(help="Why; kept in the history.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show which model serves and its history.

    `champion pause PIPELINE` stops promotions until `resume`. `champion retire PIPELINE NUMBER`
    takes a model out of service permanently: an earlier one serves instead, or none.
    `champion promote PIPELINE RUN` lets the candidate of a run serve that passed every gate.
    """
    from nightbid.cli.champion import pause_or_resume, promote, retire

    settings = Settings()
    workspace = Workspace(settings.workspace)
    if of:
        of = known(of, settings)
        if pipeline == "retire":
            line = retire(workspace, of, which, reason)
        elif pipeline == "promote":
            line = promote(workspace, of, which, reason)
        else:
            line = pause_or_resume(workspace, pipeline, of, reason)
        console.print(line, markup=False, soft_wrap=True)
        return
    pipeline = known(pipeline, settings)
    pointer = ChampionPointer(workspace, pipeline)
    paused = PromotionPauses(workspace, pipeline).current()
    if as_json:
        print_json({"history": pointer.history(), "paused": paused})
        return
    if paused is not None:
        console.print(f"promotions are paused since {paused.since:%Y-%m-%d %H:%M} UTC: "
                      f"{paused.reason}", markup=False, soft_wrap=True)  # fmt: skip
    history = pointer.history()
    if not history:
        console.print(f"{pipeline} has no champion yet: no candidate has passed every gate")
        return
    if not history[-1].serves:
        console.print(f"{pipeline} no longer has a champion: the last one was retired")
    console.print(view.champion_table(history, pointer.current()))


@app.command(rich_help_panel=PANEL)
def rollback(
    pipeline: PipelineName,
    reason: Annotated[str, typer.Option(help="Why; kept in the history.")],
    to: Annotated[
        int | None, typer.Option(help="Number in the history; default: the one before.")
    ] = None,
    by: Annotated[str, typer.Option(help="Who decided; default: your user name.")] = "",
) -> None:
    """Make an earlier champion serve again."""
    from nightbid.cli.champion import person
    from nightbid.promotion import roll_back

    settings = Settings()
    workspace = Workspace(settings.workspace)
    entry = roll_back(workspace, known(pipeline, settings), reason, to, person(by))
    console.print(
        f"{pipeline}: the champion is again {entry.run_id} (bundle {entry.bundle_digest[:12]}),"
        f" entry #{entry.number}"
    )


@app.command(rich_help_panel=PANEL)
def features(
    pipeline: PipelineName,
    set_: Overrides = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown page.")] = False,
    as_json: AsJson = False,
) -> None:
    """Document the features: their columns, transforms, model inputs and fitted statistics."""
    from nightbid.cli.features import documented, features_markdown, features_table, origin

    settings = Settings()
    spec = find_pipeline(pipeline, settings.pipelines, tuple(set_ or ()))
    documentation, run_id = documented(spec, Workspace(settings.workspace))
    if as_json:
        print_json(
            {"pipeline": pipeline, "run_id": run_id, **documentation.model_dump(mode="json")}
        )
        return
    if markdown:
        sys.stdout.write(features_markdown(pipeline, documentation, run_id) + "\n")
        return
    console.print(features_table(documentation))
    console.print(origin(pipeline, run_id), soft_wrap=True)


@app.command(rich_help_panel=PANEL)
def ablate(
    pipeline: PipelineName,
    run_id: Annotated[
        str, typer.Argument(help="Run with a trained candidate.", autocompletion=complete.runs)
    ],
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Retrain without each feature; slow.")
    ] = False,
    only: Annotated[str, typer.Option(help="Features, separated by commas; default: all.")] = "",
    group: Annotated[
        list[str] | None,
        typer.Option(help="Features to leave out together: name=feature,feature. Repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the value of each feature (the loss without it) and the cost of computing it."""
    from nightbid.ablation.worth import ablate as measure
    from nightbid.cli.ablate import ablation_table, parse_groups
    from nightbid.config.pipeline import PipelineSpec
    from nightbid.report.write import write_report

    settings = Settings()
    record = RunRecord.load(Workspace(settings.workspace), known(pipeline, settings), run_id)
    ablation = measure(
        record,
        PipelineSpec.model_validate(record.head.spec),
        method="retraining" if retrain else "permutation",
        only=[feature.strip() for feature in only.split(",") if feature.strip()],
        groups=parse_groups(group or []),
        progress=LogProgress("ablate"),
    )
    ablation.save(record)
    if as_json:
        write_report(record)
        print_json(asdict(ablation))
        return
    console.print(ablation_table(ablation))
    console.print(f"also in the report: {write_report(record)}", soft_wrap=True)


@app.command(rich_help_panel=PANEL)
def sweep(
    pipeline: PipelineName,
    set_: Annotated[
        list[str],
        typer.Option(
            "--set",
            help="Setting to vary; repeatable: key=a,b,c, key=log:1e-4..1e-2 or key=lin:0.0..0.5.",
        ),
    ],
    trials: Annotated[
        int, typer.Option(min=1, help="Number of trials, including finished ones.")
    ] = 20,
    budget: Annotated[
        str, typer.Option(help="Budget of all trials at cloud prices, such as 5USD.")
    ] = "",
    date_: Annotated[
        date | None,
        date_option("Night to sweep; default: the newest that ran."),
    ] = None,
    metric: Annotated[str, typer.Option(help="Metric on the validation rows: log_loss or auc.")] = (
        "log_loss"
    ),
    name: Annotated[str, typer.Option(help="Name of the sweep; the same command resumes it.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the proposed trials.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train many variants on the same features and rank them; the same command resumes a sweep."""
    from nightbid.cli.sweep import budget_of, run_sweep
    from nightbid.sweep.study import Sweep, newest_night

    settings = Settings()
    if metric not in ("log_loss", "auc"):
        raise ConfigError(f"no metric {metric!r}", where="--metric", hint="use log_loss or auc")
    search = Sweep.start(
        known(pipeline, settings),
        settings,
        date=date_ or newest_night(pipeline, settings),
        varied=set_,
        trials=trials,
        budget_usd=budget_of(budget),
        metric="auc" if metric == "auc" else "log_loss",
        name=name,
        seed=seed,
    )
    run_sweep(search, settings, console, as_json=as_json)


@app.command(rich_help_panel=PANEL)
def rehearse(
    pipeline: Annotated[
        str,
        typer.Argument(
            help="Pipeline to rehearse with; default: the one that ran last.",
            autocompletion=complete.pipelines,
        ),
    ] = "",
    requirements: Annotated[
        Path | None, typer.Option(help="Candidate lock file, with one name==version per line.")
    ] = None,
    upgrade: Annotated[
        list[str] | None,
        typer.Option(
            help="Upgrade only this package: name==version. Resolves the lock. Repeatable."
        ),
    ] = None,
    newest: Annotated[
        bool,
        typer.Option(
            "--newest", help="Upgrade to the newest versions that requirements.in allows."
        ),
    ] = False,
    present: Annotated[Path, typer.Option(help="Lock file in use now.")] = Path("requirements.txt"),
    run_id: Annotated[
        str,
        typer.Option(
            help="Night that supplies the rows; default: newest.", autocompletion=complete.runs
        ),
    ] = "",
    frozen: Annotated[str, typer.Option(help="Frozen data set to use instead.")] = "",
    set_: Overrides = None,
    seeds: Annotated[int, typer.Option(min=2, help="Number of trainings under each lock.")] = 5,
    margin: Annotated[
        float | None,
        typer.Option(
            help="Margin in normalized entropy; default: the pipeline's evaluate.margin_ne."
        ),
    ] = None,
    latency: Annotated[bool, typer.Option(help="Also run load tests.")] = True,
    bisect: Annotated[
        bool, typer.Option(help="Find the packages that cause a change (bisection).")
    ] = True,
    budget: Annotated[str, typer.Option(help="Cost limit at cloud prices, such as 5USD.")] = "",
    minutes: Annotated[
        float | None, typer.Option(help="Minutes after which no new bisection step starts.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the rehearsal; the same one resumes it.")] = "",
    again: Annotated[bool, typer.Option("--again", help="Repeat finished steps, too.")] = False,
) -> None:
    """Rehearse an upgrade: compare the present and a candidate lock on the same rows and seeds.

    Exits with code 1 if the upgrade is not safe.
    """
    from nightbid.cli.rehearse import newest_pipeline, run_rehearsal
    from nightbid.cli.sweep import budget_of
    from nightbid.rehearse.locks import Lock
    from nightbid.rehearse.planning import candidate_lock, plan_rehearsal

    settings = Settings()
    logging.getLogger().setLevel(logging.WARNING)
    chosen = known(pipeline, settings) if pipeline else newest_pipeline(settings)
    plan = plan_rehearsal(
        chosen,
        settings,
        present=Lock.read(present),
        candidate=candidate_lock(requirements, tuple(upgrade or ()), present, newest=newest),
        run_id=run_id,
        frozen=frozen,
        overrides=tuple(set_ or ()),
        seeds=seeds,
        margin=margin,
        latency=latency,
        bisect=bisect,
        budget_usd=budget_of(budget),
        minutes=minutes,
        name=name,
    )
    if run_rehearsal(plan, settings, console, again=again).verdict == "not safe":
        raise typer.Exit(1)
