"""`nightbid`: the nightly run and its answers, without Airflow."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nightbid.cli import view
from nightbid.cli.output import AsJson, print_json, terminal
from nightbid.config.load import find_pipeline, pipeline_names
from nightbid.config.pipeline import Night
from nightbid.config.settings import Settings
from nightbid.errors import (
    EXIT_CODES,
    ConfigError,
    DataError,
    NightbidError,
    StageError,
    WorkspaceError,
)
from nightbid.night.champion import ChampionPointer
from nightbid.night.progress import LogProgress
from nightbid.night.record import RunRecord, runs_of
from nightbid.night.sealed import first_fault
from nightbid.storage.workspace import Workspace

app = typer.Typer(
    name="nightbid",
    help="Retrain, judge and promote ad-ranking models, and know what each run cost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
console = terminal()
CHECK = "check the disk and the permissions of the workspace; a rerun is safe"

PipelineName = Annotated[str, typer.Argument(help="Name of the pipeline: a YAML's `pipeline:`.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a YAML key: dotted.key=value. May be repeated."),
]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"nightbid {version('nightbid')}")
        raise typer.Exit


@app.callback(epilog="Exit codes: 0 success, 1 another failure, "
              + ", ".join(f"{code} {said}" for code, said in EXIT_CODES.items()))  # fmt: skip
def nightbid(
    _: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Retrain, judge and promote ad-ranking models, and know what each run cost."""


@app.command()
def run(
    pipeline: PipelineName,
    date_: Annotated[
        datetime, typer.Option("--date", formats=["%Y-%m-%d"], help="Newest day of logs.")
    ],
    nights: Annotated[int, typer.Option(min=1, help="Consecutive nights from that date on.")] = 1,
    set_: Overrides = None,
    run_id: Annotated[str, typer.Option(help="Name of the run; default <pipeline>-<date>.")] = "",
    until: Annotated[str, typer.Option(help="Stop after this stage.")] = "",
) -> None:
    """Run one night or several: sample, featurize, train, evaluate, gate, promote.

    What is finished already is reused, and said so.
    """
    from nightbid.cli.night import run_nights

    settings = Settings()
    overrides = tuple(set_ or ())
    spec = find_pipeline(pipeline, settings.pipelines, overrides)
    run_nights(
        spec,
        first=date_.date(),
        nights=nights,
        settings=settings,
        overrides=overrides,
        run_id=run_id,
        until=until,
        console=console,
    )


@app.command()
def pipelines(as_json: AsJson = False) -> None:
    """List the pipelines and check their YAML; exit with 2 if one is broken."""
    settings = Settings()
    faults = []
    listed = []
    table = Table("pipeline", "source", "label", "model", "schedule", "description")
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
            escape(spec.description),
        )
    if as_json:
        print_json({"pipelines": listed, "faults": [str(fault) for fault in faults]})
        raise typer.Exit(ConfigError.exit_code if faults else 0)
    console.print(table)
    for fault in faults:
        typer.echo(f"error: {fault}", err=True)
    if faults:
        raise typer.Exit(ConfigError.exit_code)


@app.command()
def features(
    pipeline: PipelineName,
    set_: Overrides = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="As a Markdown page.")] = False,
    as_json: AsJson = False,
) -> None:
    """Document the features: what each reads, makes and gives the model, and what it learned."""
    from nightbid.cli.features import documented, features_markdown, features_table, origin

    settings = Settings()
    spec = find_pipeline(pipeline, settings.pipelines, tuple(set_ or ()))
    found, run_id = documented(spec, Workspace(settings.workspace))
    if as_json:
        print_json({"pipeline": pipeline, "run_id": run_id, **found.model_dump(mode="json")})
        return
    if markdown:
        sys.stdout.write(features_markdown(pipeline, found, run_id) + "\n")
        return
    console.print(features_table(found))
    console.print(origin(pipeline, run_id), soft_wrap=True)


@app.command()
def runs(
    pipeline: PipelineName,
    last: Annotated[int, typer.Option(min=1, help="Newest runs to list.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the runs of a pipeline, newest last."""
    settings = Settings()
    found = runs_of(Workspace(settings.workspace), _known(pipeline, settings))[-last:]
    if as_json:
        from nightbid.report.summaries import summarise

        print_json([summarise(each).model_dump(mode="json") for each in found])
        return
    if not found:
        console.print(
            f"no runs of {pipeline} yet: start one with `nightbid run {pipeline} --date …`"
        )
        return
    console.print(view.runs_table(found))


@app.command()
def report(
    pipeline: PipelineName,
    run_id: Annotated[str, typer.Argument(help="Run id; default: the newest run.")] = "",
) -> None:
    """Write the HTML report of a run and print its path."""
    from nightbid.report.write import write_report

    settings = Settings()
    workspace = Workspace(settings.workspace)
    name = _known(pipeline, settings)
    if run_id:
        record = RunRecord.load(workspace, name, run_id)
    else:
        found = runs_of(workspace, name)
        if not found:
            raise ConfigError(
                f"no runs of {name!r} yet",
                where=settings.workspace,
                hint=f"start one with `nightbid run {name} --date …`",
            )
        record = found[-1]
    console.print(str(write_report(record)), soft_wrap=True)


@app.command()
def champion(
    pipeline: Annotated[
        str, typer.Argument(help="A pipeline; or `pause`, `resume` or `retire` before it.")
    ],
    of: Annotated[
        str, typer.Argument(help="The pipeline, after `pause`, `resume` or `retire`.")
    ] = "",
    number: Annotated[
        int | None, typer.Argument(help="With `retire`: number in the history.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; kept in the history.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show which model serves and its history.

    `champion pause PIPELINE` stops promotions until `resume`; `champion retire PIPELINE NUMBER`
    takes a model out of service for good: an earlier one serves, or nothing.
    """
    from nightbid.cli.champion import pause_or_resume, retire

    settings = Settings()
    if of:
        pointer = ChampionPointer(Workspace(settings.workspace), _known(of, settings))
        if pipeline == "retire":
            said = retire(pointer, of, number, reason)
            console.print(said, markup=False, soft_wrap=True)
            return
        console.print(pause_or_resume(pointer, pipeline, of, reason), markup=False, soft_wrap=True)
        return
    pointer = ChampionPointer(Workspace(settings.workspace), _known(pipeline, settings))
    if as_json:
        print_json({"history": pointer.history(), "paused": pointer.paused()})
        return
    if (pause := pointer.paused()) is not None:
        console.print(f"promotions are paused since {pause.since:%Y-%m-%d %H:%M} UTC: "
                      f"{pause.reason}", markup=False, soft_wrap=True)  # fmt: skip
    history = pointer.history()
    if not history:
        console.print(f"{pipeline} has no champion yet: no candidate has passed every gate")
        return
    if not history[-1].serves:
        console.print(f"{pipeline} has no champion any more: the last one was retired")
    console.print(view.champion_table(history, pointer.current()))


@app.command()
def rollback(
    pipeline: PipelineName,
    reason: Annotated[str, typer.Option(help="Why; kept in the history.")],
    to: Annotated[
        int | None, typer.Option(help="Number in the history; default: the one before.")
    ] = None,
    by: Annotated[str, typer.Option(help="Who decides it; default: your user name.")] = "",
) -> None:
    """Let an earlier champion serve again."""
    from nightbid.cli.champion import person

    settings = Settings()
    pointer = ChampionPointer(Workspace(settings.workspace), _known(pipeline, settings))
    entry = pointer.rollback(reason, to, person(by))
    console.print(
        f"{pipeline}: the champion is again {entry.run_id} (bundle {entry.bundle_digest[:12]}),"
        f" entry #{entry.number}"
    )


@app.command()
def serve(
    pipeline: PipelineName,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8090,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    processes: Annotated[
        int, typer.Option(min=0, help="Each with its own copy of the model; 0: one per core.")
    ] = 0,
    queue_ms: Annotated[
        float,
        typer.Option(min=1, help="A request that would wait longer is refused at once (503)."),
    ] = 50,
    poll: Annotated[float, typer.Option(min=0.1, help="Seconds between looks at what serves.")] = 2,
    threads: Annotated[int, typer.Option(hidden=True, help="Has no effect any more.")] = 0,
) -> None:
    """Score rows over HTTP with the champion; promotions and rollbacks are followed."""
    from nightbid.scorer.server import ScorerSettings, listen
    from nightbid.scorer.server import serve as serve_until_stopped

    settings = Settings()
    if threads:
        Console(stderr=True).print("--threads has no effect any more → use --processes")
    scorer = ScorerSettings(
        workspace=str(settings.workspace),
        pipeline=_known(pipeline, settings),
        poll_seconds=poll,
        queue_ms=queue_ms,
    )
    taken = listen(host, port)
    address = f"http://{host}:{taken.getsockname()[1]}/score"

    def started() -> None:
        console.print(f"scoring with the champion of {pipeline}: {address}", soft_wrap=True)

    serve_until_stopped(
        scorer, taken, processes=processes or len(os.sched_getaffinity(0)), started=started
    )


@app.command()
def score(
    pipeline: PipelineName,
    rows: Annotated[
        Path | None, typer.Argument(help="Parquet file, or folder of Parquet files.")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="New folder for the scores.")] = None,
    date: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"], help="Score a day of the logs instead; a metered stage."
        ),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="Column to copy; may be repeated. Default: all.")
    ] = None,
) -> None:
    """Score Parquet files, or a day of the logs, with the champion, without a server."""
    from nightbid.scorer.follow import fetch_bundle
    from nightbid.serving.batch import score_files

    settings = Settings()
    workspace = Workspace(settings.workspace)
    if date is not None and rows is None and to is None:
        from nightbid.serving.score_stage import score_day

        scorer, scored = score_day(
            workspace, _known(pipeline, settings), date.date(), cache_folder=settings.cache
        )
        console.print(f"champion #{scorer.number}: {scored.manifest.summary}", soft_wrap=True)
        console.print(f"{scored.uri}/scores", soft_wrap=True)
        return
    if rows is None or to is None or date is not None:
        raise ConfigError(
            "give either --date, or rows and --to",
            where="score",
            hint="`nightbid score ctr --date 2026-01-09`, or `nightbid score ctr rows --to scores`",
        )
    champion = ChampionPointer(workspace, _known(pipeline, settings)).current()
    if champion is None:
        raise ConfigError(
            "no champion yet",
            where=pipeline,
            hint="run a night: no candidate has passed every gate",
        )
    found = score_files(
        fetch_bundle(workspace, champion),
        rows,
        to,
        keep=keep or (),
        described=champion.model_dump(mode="json"),
    )
    console.print(
        f"{found['rows']:,} rows of {found['files']:,} file{'s' * (found['files'] != 1)} scored"
        f" with champion #{champion.number} of {pipeline},"
        f" {found['rows_per_second']:,.0f} rows/s: {to}",
        soft_wrap=True,
    )


@app.command()
def compare(
    pipeline: PipelineName,
    run_ids: Annotated[list[str], typer.Argument(help="Two or more run ids.")],
    as_json: AsJson = False,
) -> None:
    """Compare runs: metrics with intervals, differences in the spec, cost."""
    from nightbid.cli.compare import compare_runs, comparison_json

    settings = Settings()
    workspace = Workspace(settings.workspace)
    name = _known(pipeline, settings)
    found = [RunRecord.load(workspace, name, each) for each in run_ids]
    if as_json:
        print_json(comparison_json(found))
        return
    console.print(compare_runs(found))


@app.command()
def ablate(
    pipeline: PipelineName,
    run_id: Annotated[str, typer.Argument(help="A run whose candidate is trained.")],
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train again without each feature; slow.")
    ] = False,
    only: Annotated[str, typer.Option(help="Features, separated by commas; default: all.")] = "",
    group: Annotated[
        list[str] | None,
        typer.Option(help="Features taken away together: name=feature,feature. Repeatable."),
    ] = None,
) -> None:
    """Show what each feature is worth: the loss without it, beside what computing it costs."""
    from nightbid.ablation.worth import ablate as measure
    from nightbid.cli.ablate import ablation_table, parse_groups
    from nightbid.config.pipeline import PipelineSpec
    from nightbid.report.write import write_report

    settings = Settings()
    record = RunRecord.load(Workspace(settings.workspace), _known(pipeline, settings), run_id)
    found = measure(
        record,
        PipelineSpec.model_validate(record.head.spec),
        method="retraining" if retrain else "permutation",
        only=[each.strip() for each in only.split(",") if each.strip()],
        groups=parse_groups(group or []),
        progress=LogProgress("ablate"),
    )
    found.save(record)
    console.print(ablation_table(found))
    console.print(f"also in the report: {write_report(record)}", soft_wrap=True)


@app.command()
def sweep(
    pipeline: PipelineName,
    set_: Annotated[
        list[str],
        typer.Option(
            "--set", help="What varies: key=a,b,c, key=log:1e-4..1e-2 or key=lin:0.0..0.5."
        ),
    ],
    trials: Annotated[int, typer.Option(min=1, help="Trials, those already done included.")] = 20,
    budget: Annotated[str, typer.Option(help="Of all trials at cloud prices, as 5USD.")] = "",
    date_: Annotated[
        datetime | None,
        typer.Option("--date", formats=["%Y-%m-%d"], help="Default: the newest night that ran."),
    ] = None,
    metric: Annotated[str, typer.Option(help="log_loss or auc, of the validation rows.")] = (
        "log_loss"
    ),
    name: Annotated[str, typer.Option(help="Name of the sweep; the same command goes on.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of the proposals.")] = 0,
) -> None:
    """Train many variants on the same features and rank them; run again, it goes on."""
    from nightbid.cli.sweep import budget_of, run_sweep
    from nightbid.sweep.study import Sweep, newest_night

    settings = Settings()
    if metric not in ("log_loss", "auc"):
        raise ConfigError(f"no metric {metric!r}", where="--metric", hint="take log_loss or auc")
    begun = Sweep.start(
        _known(pipeline, settings),
        settings,
        date=date_.date() if date_ else newest_night(pipeline, settings),
        varied=set_,
        trials=trials,
        budget_usd=budget_of(budget),
        metric="auc" if metric == "auc" else "log_loss",
        name=name,
        seed=seed,
    )
    run_sweep(begun, settings, console)


@app.command()
def rehearse(
    pipeline: Annotated[
        str, typer.Argument(help="Pipeline to rehearse with; default: the one that ran last.")
    ] = "",
    requirements: Annotated[
        Path | None, typer.Option(help="Candidate lock: name==version line by line.")
    ] = None,
    upgrade: Annotated[
        list[str] | None,
        typer.Option(help="Only this package, name==version; the lock is resolved. Repeatable."),
    ] = None,
    newest: Annotated[
        bool, typer.Option("--newest", help="The newest versions that requirements.in allows.")
    ] = False,
    present: Annotated[Path, typer.Option(help="Present lock.")] = Path("requirements.txt"),
    run_id: Annotated[str, typer.Option(help="Night whose rows are used; default: newest.")] = "",
    frozen: Annotated[str, typer.Option(help="Frozen data set to use instead.")] = "",
    set_: Overrides = None,
    seeds: Annotated[int, typer.Option(min=2, help="Trainings on each side.")] = 5,
    margin: Annotated[
        float | None,
        typer.Option(help="Of normalized entropy; default: evaluate.margin_ne of the pipeline."),
    ] = None,
    latency: Annotated[bool, typer.Option(help="Load-test as well.")] = True,
    bisect: Annotated[bool, typer.Option(help="Look for the packages that cause a change.")] = True,
    budget: Annotated[str, typer.Option(help="Limit at cloud prices, 5USD.")] = "",
    minutes: Annotated[
        float | None, typer.Option(help="No step of the bisection begins after that long.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the rehearsal; the same one goes on.")] = "",
    again: Annotated[bool, typer.Option("--again", help="Repeat what was rehearsed.")] = False,
) -> None:
    """Rehearse an upgrade: the same rows, spec and seeds under the present and a candidate lock.

    Exit code 1: not safe.
    """
    from nightbid.cli.rehearse import newest_pipeline, run_rehearsal
    from nightbid.cli.sweep import budget_of
    from nightbid.rehearse.locks import Lock
    from nightbid.rehearse.planning import candidate_lock, plan_rehearsal

    settings = Settings()
    logging.getLogger().setLevel(logging.WARNING)
    chosen = _known(pipeline, settings) if pipeline else newest_pipeline(settings)
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


@app.command()
def track(
    pipeline: Annotated[str, typer.Argument(help="Log a run of this pipeline.")] = "",
    run_id: Annotated[str, typer.Argument(help="Run id; default: the newest run.")] = "",
    replay: Annotated[bool, typer.Option("--replay", help="Log every run that waits.")] = False,
) -> None:
    """Log a run in MLflow, or the runs that wait because its store was down."""
    from nightbid.cli.track import track_runs

    settings = Settings()
    if bool(pipeline) == replay:
        raise ConfigError(
            "say which run to log, or that all that wait are",
            where="track",
            hint="`nightbid track PIPELINE [RUN]` or `nightbid track --replay`",
        )
    name = _known(pipeline, settings) if pipeline else ""
    console.print(track_runs(settings, name, run_id), soft_wrap=True, highlight=False)


@app.command()
def window(
    pipeline: PipelineName,
    date_: Annotated[
        datetime, typer.Option("--date", formats=["%Y-%m-%d"], help="Newest day of logs.")
    ],
    set_: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Show which days a night would use for what."""
    spec = find_pipeline(pipeline, Settings().pipelines, tuple(set_ or ()))
    night = Night.of(spec, date_.date())
    if as_json:
        splits = {"train": night.train, "validate": night.validate_, "evaluate": night.evaluate}
        print_json(splits)
        return
    table = Table("split", "days", "from", "to")
    for name, days in (
        *((("history", night.history),) if night.history else ()),
        ("train", night.train),
        ("validate", night.validate_),
        ("evaluate", night.evaluate),
    ):
        table.add_row(name, str(len(days)), days[0].isoformat(), days[-1].isoformat())
    console.print(table)


@app.command()
def watch(
    pipelines: Annotated[
        list[str] | None,
        typer.Argument(help="Expect these too, although their schedule has made no night yet."),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Look once, for cron: exit with 6 if there is news.")
    ] = False,
    every: Annotated[float, typer.Option(min=1, help="Seconds between looks.")] = 60,
    missing: Annotated[
        float, typer.Option(min=0, help="Minutes after its time until a night is missing.")
    ] = 10,
    stalled: Annotated[
        float, typer.Option(min=1, help="Minutes without a sign until a night has stalled.")
    ] = 10,
    late: Annotated[
        float, typer.Option(min=1, help="Minutes after its start until a night is late.")
    ] = 360,
    sign: Annotated[
        Path | None, typer.Option(help="File to touch after each look, for a health check.")
    ] = None,
) -> None:
    """Tell people about nights that are missing, stalled or late: outside of Airflow.

    Reads the workspace and the YAMLs alone; sends to NIGHTBID_STOP_WEBHOOK and NIGHTBID_MAIL_TO.
    """
    from nightbid.alerts.watch import Patience
    from nightbid.cli.watch import watch_nights

    found = watch_nights(
        Settings(),
        expected=pipelines or (),
        patience=Patience(missing, stalled, late),
        every=every,
        once=once,
        sign=sign,
        console=console,
    )
    if found:
        raise typer.Exit(StageError.exit_code)


@app.command()
def schema(
    folder: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("docs"),
) -> None:
    """Write the reference of the pipeline YAML, and its JSON schema for editors."""
    from nightbid.config.document import reference, schema_text

    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("yaml.md", reference()), ("pipeline.schema.json", schema_text())):
        (folder / name).write_text(text, encoding="utf-8")
        console.print(str(folder / name), soft_wrap=True)


def _known(pipeline: str, settings: Settings) -> str:
    return find_pipeline(pipeline, settings.pipelines).pipeline


def _mount() -> None:
    """Add the rooms' own sub-commands."""
    for name, text in (
        ("data", "Look at, fetch or make the logs of a pipeline."),
        ("gates", "Propose, show and override what the gates would stop."),
        ("cost", "What runs cost, and will cost."),
        ("bids", "What predictions would have earned on logged auctions."),
    ):
        module = importlib.import_module(f"nightbid.cli.{name}")
        app.add_typer(module.app, name=name, help=text)


def main() -> None:
    """Entry point: a user's mistake is one line, not a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # TensorFlow's start-up notices are noise in a terminal; its errors stay.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    _mount()
    try:
        app()
    except NightbidError as error:
        _say(type(error).__name__, str(error), error.exit_code)
    except BrokenPipeError:
        raise
    except (OSError, ValidationError) as error:
        # A full disk, a file without permission, or a damaged record: no fault of the code.
        code = WorkspaceError.exit_code if isinstance(error, OSError) else DataError.exit_code
        _say(type(error).__name__, f"{first_fault(error)} → {CHECK}", code)


def _say(kind: str, line: str, code: int = 1) -> NoReturn:
    Console(stderr=True).print(f"[bold red]{kind}[/] ", end="")
    Console(stderr=True, markup=False, highlight=False).print(line, soft_wrap=True)
    sys.exit(code)
