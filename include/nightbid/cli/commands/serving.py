"""Commands that score rows: over HTTP, or whole files and days."""

from __future__ import annotations

import contextlib
import os
from datetime import date as date_type
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nightbid.cli.dates import date_option
from nightbid.cli.output import AsJson, print_json
from nightbid.cli.root import PipelineName, app, console, known
from nightbid.config.settings import Settings
from nightbid.counts import counted
from nightbid.errors import ConfigError, NightbidError
from nightbid.night.champion import ChampionPointer
from nightbid.storage.workspace import Workspace

PANEL = "Serving"


@app.command(rich_help_panel=PANEL)
def serve(
    pipeline: PipelineName,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free one.")] = 8090,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    processes: Annotated[
        int,
        typer.Option(
            min=0, help="Worker processes, each with its own copy of the model; 0: one per core."
        ),
    ] = 0,
    queue_ms: Annotated[
        float,
        typer.Option(
            min=1, help="Longest queue wait, ms. A request that would wait longer gets 503 at once."
        ),
    ] = 50,
    client_seconds: Annotated[
        float,
        typer.Option(min=1, help="A client that sends or reads more slowly is disconnected."),
    ] = 10,
    poll: Annotated[float, typer.Option(min=0.1, help="Seconds between champion checks.")] = 2,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="File with a client name and a token per line; requests then need a token."
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="PEM file with the certificate chain.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file with its private key.")] = None,
    rate_limit: Annotated[
        float, typer.Option(min=0, help="Requests per second of one client; 0: no limit.")
    ] = 0,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow a network --host without tokens.")
    ] = False,
    shadow: Annotated[
        str,
        typer.Option(
            help="Also score each request with a shadow model and compare: `previous` champion, "
            "newest `candidate` or the folder of a bundle."
        ),
    ] = "",
    shadow_log: Annotated[
        Path | None, typer.Option(help="JSONL file with the differences of each request.")
    ] = None,
    shadow_key: Annotated[
        list[str] | None,
        typer.Option(
            help="Request column that identifies a row of the logs, for `nightbid shadow`. "
            "Repeatable."
        ),
    ] = None,
    threads: Annotated[int, typer.Option(hidden=True, help="Deprecated; has no effect.")] = 0,
) -> None:
    """Score rows over HTTP with the champion; the server follows promotions and rollbacks."""
    from nightbid.scorer.access import Access
    from nightbid.scorer.server import ScorerSettings, listen
    from nightbid.scorer.server import serve as serve_until_stopped

    settings = Settings()
    if threads:
        Console(stderr=True).print("--threads no longer has an effect → use --processes")
    scorer = ScorerSettings(
        workspace=str(settings.workspace),
        pipeline=known(pipeline, settings),
        poll_seconds=poll,
        queue_ms=queue_ms,
        client_seconds=client_seconds,
        access=Access(
            token_file=str(token_file or ""),
            requests_per_second=rate_limit,
            certificate=str(tls_cert or ""),
            key=str(tls_key or ""),
        ),
        shadow=shadow,
        shadow_log=str(shadow_log or ""),
        shadow_key=tuple(shadow_key or ()),
    )
    if shadow_key and not (shadow and shadow_log):
        raise ConfigError(
            "--shadow-key has no effect without --shadow and --shadow-log",
            where="serve",
            hint="pass all three",
        )
    if shadow:
        from nightbid.scorer.shadow_bundle import check

        check(Workspace(settings.workspace), shadow)
    if shadow_log:
        try:
            shadow_log.open("a").close()
        except OSError as error:
            raise ConfigError(
                f"cannot write {shadow_log} ({error.strerror})",
                where="--shadow-log",
                hint="name a file in a folder that exists",
            ) from error
    scorer.access.check(host, insecure=insecure)
    listener = listen(host, port)
    name = f"[{host}]" if ":" in host else host
    address = f"http{'s' if tls_cert else ''}://{name}:{listener.getsockname()[1]}/score"

    def started() -> None:
        console.print(f"scoring with the champion of {pipeline}: {address}", soft_wrap=True)
        with contextlib.suppress(NightbidError):  # the scorer reports it in /health and tries again
            if ChampionPointer(Workspace(settings.workspace), pipeline).current() is None:
                console.print("no champion serves yet: requests get 503 until a night promotes one")

    serve_until_stopped(
        scorer, listener, processes=processes or len(os.sched_getaffinity(0)), started=started
    )


@app.command("shadow", rich_help_panel=PANEL)
def shadow_outcomes(
    log: Annotated[Path, typer.Argument(help="File that `serve --shadow-log` wrote.")],
    rows: Annotated[Path, typer.Argument(help="Parquet file or folder with the outcomes.")],
    label: Annotated[str, typer.Option(help="Column that is above 0 for a positive outcome.")],
    as_json: AsJson = False,
) -> None:
    """Compare the scores of champion and shadow with the outcomes of the same rows."""
    from nightbid.scorer.outcomes import calibration

    calibrations = calibration(log, rows, label)
    if as_json:
        print_json(calibrations)
        return
    for pair in calibrations:
        console.print(
            f"champion #{pair['champion']} and {pair['shadow']}: {counted(pair['rows'], 'row')},"
            f" {pair['without_outcome']:,} without an outcome, observed {pair['observed']:.5f}",
            soft_wrap=True,
        )
        for role in ("champion", "shadow"):
            figures = pair[f"of_{role}"]
            ratio = "-" if figures["ratio"] is None else f"{figures['ratio']:.3f}"
            console.print(
                f"  {role}: mean {figures['mean']:.5f}, predicted / observed {ratio},"
                f" log loss {figures['log_loss']:.5f}",
                soft_wrap=True,
            )


@app.command(rich_help_panel=PANEL)
def score(
    pipeline: PipelineName,
    rows: Annotated[
        Path | None, typer.Argument(help="Parquet file, or folder of Parquet files.")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="New folder for the scores.")] = None,
    date: Annotated[
        date_type | None,
        date_option("Score this day of the logs instead, as a metered stage."),
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
            workspace, known(pipeline, settings), date, cache_folder=settings.cache
        )
        console.print(f"champion #{scorer.number}: {scored.manifest.summary}", soft_wrap=True)
        console.print(f"{scored.uri}/scores", soft_wrap=True)
        return
    if rows is None or to is None or date is not None:
        raise ConfigError(
            "pass either --date, or ROWS and --to",
            where="score",
            hint=f"`nightbid score {pipeline} --date 2026-01-09`, or"
            f" `nightbid score {pipeline} ROWS --to scores`",
        )
    champion = ChampionPointer(workspace, known(pipeline, settings)).current()
    if champion is None:
        raise ConfigError(
            "there is no champion",
            where=pipeline,
            hint=f"run a night; `nightbid champion {pipeline}` shows the history",
        )
    summary = score_files(
        fetch_bundle(workspace, champion),
        rows,
        to,
        keep=keep or (),
        described=champion.model_dump(mode="json"),
    )
    console.print(
        f"{counted(summary['rows'], 'row')} of {counted(summary['files'], 'file')}"
        f" scored with champion #{champion.number} of {pipeline},"
        f" {summary['rows_per_second']:,.0f} rows/s: {to}",
        soft_wrap=True,
    )
