"""`python -m nightbid_airflow.embedded run|ui`."""

from __future__ import annotations

import datetime as dt
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Annotated

import typer
from nightbid.cli.dates import date_option
from nightbid.config.load import find_pipeline
from nightbid.config.settings import Settings
from nightbid.errors import NightbidError, StageError
from rich.console import Console
from rich.markup import escape

from nightbid_airflow.embedded.home import USER, Home
from nightbid_airflow.embedded.services import Airflow, embedded

PARSE_SECONDS = 60.0

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
console = Console(soft_wrap=not sys.stdout.isatty())


@app.command()
def run(
    pipeline: Annotated[str, typer.Option(help="Name of a YAML in include/pipelines/.")] = "ctr",
    nights: Annotated[int, typer.Option(min=1, help="Number of consecutive nights.")] = 2,
    date: Annotated[dt.date | None, date_option("The first night.")] = None,
    settings_over: Annotated[
        list[str] | None, typer.Option("--set", help="Override a YAML key: dotted.key=value.")
    ] = None,
) -> None:
    """Run nights of a pipeline through Airflow, and exit."""
    settings, overrides = Settings(), tuple(settings_over or ())
    # Check the request before anything is started.
    spec = find_pipeline(pipeline, settings.pipelines, overrides)
    from nightbid.preflight import check_settings

    from nightbid_airflow.embedded.nights import default_first, run_nights

    first = spec.partition_at(date) if date else default_first(spec, nights, settings.cache)
    check_settings(spec, first, settings.cache)
    with _started(settings) as airflow:
        _wait_for_dag(airflow, f"nightly_{pipeline}")
        run_nights(
            airflow,
            spec,
            first=first,
            nights=nights,
            overrides=overrides,
            settings=settings,
            console=console,
        )


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 8080,
    schedules: Annotated[
        bool,
        typer.Option(
            "--schedules/--no-schedules",
            help="Run switched-on DAGs on their schedules.",
        ),
    ] = True,
) -> None:
    """Start Airflow, print its address, and run until Ctrl-C."""
    settings = Settings()
    with _started(settings, port, schedules) as airflow:
        console.print(f"Airflow: [bold]{airflow.client.address}[/]", highlight=False)
        console.print(
            f"login:   [bold]{USER}[/], password [bold]{escape(airflow.home.password())}[/]",
            highlight=False,
        )
        for error in airflow.client.import_errors():
            console.print(f"[yellow]{escape(error)}[/]", highlight=False)
        if schedules:
            console.print(
                "A DAG that is switched on runs on its schedule; *Trigger* runs a night now."
            )
        else:
            console.print("Schedules are off (--no-schedules): trigger nights by hand.")
        console.print("Press Ctrl-C to stop.")
        while True:
            airflow.check()
            time.sleep(1)


@contextmanager
def _started(settings: Settings, port: int = 0, schedules: bool = False) -> Iterator[Airflow]:
    """Start Airflow, and show a spinner meanwhile."""
    with ExitStack() as stack:
        with console.status("Airflow is starting (about 30 s)"):
            home = Home.beside(settings)
            airflow = stack.enter_context(embedded(home, settings, port, schedules=schedules))
        yield airflow


def _wait_for_dag(airflow: Airflow, dag: str) -> None:
    deadline = time.monotonic() + PARSE_SECONDS
    while not airflow.client.has_dag(dag):
        airflow.check()
        if time.monotonic() > deadline:
            errors = airflow.client.import_errors()
            raise StageError(
                f"no DAG {dag!r} after {PARSE_SECONDS:g} s{': ' if errors else ''}"
                + "; ".join(errors),
                where="airflow",
                hint=f"see {airflow.home.logs / 'dag-processor.log'}",
            )
        time.sleep(0.5)
    airflow.client.unpause(dag)


def _on_signal(number: int, frame: FrameType | None) -> None:
    """Handle a signal like Ctrl-C, so that all started processes are terminated too."""
    raise KeyboardInterrupt


def main() -> None:
    """Entry point: prints a user error as one line, not as a traceback."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _on_signal)
    try:
        app()
    except NightbidError as error:
        Console(stderr=True, soft_wrap=True).print(f"[red]error:[/] {escape(str(error))}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
