"""The root of the command line: the application, its console and its shared arguments."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Annotated

import typer

from nightbid.cli import complete
from nightbid.cli.output import terminal
from nightbid.config.load import find_pipeline
from nightbid.config.settings import Settings
from nightbid.errors import EXIT_CODES, ConfigError

app = typer.Typer(
    name="nightbid",
    help="Retrain, evaluate and promote ad-ranking models, and track the cost of each run.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
console = terminal()

PipelineName = Annotated[
    str,
    typer.Argument(help="Name of the pipeline, as in its YAML.", autocompletion=complete.pipelines),
]
SEVERAL = re.compile(r"=(log:)?[^\[{]*(,|\.\.)[^\]}]*$")
"""Pattern of a `--set` text with several values, which only a sweep accepts."""
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a YAML key: dotted.key=value. May be repeated."),
]


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"nightbid {version('nightbid')}")
        raise typer.Exit


@app.callback(epilog="Exit codes: 0 success; 1 other failure; "
              + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()))  # fmt: skip
def nightbid(
    _: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Retrain, evaluate and promote ad-ranking models, and track the cost of each run."""


@contextmanager
def one_value_each(overrides: Sequence[str]) -> Iterator[None]:
    """Add a hint to the error if a refused setting has several values, which only sweeps accept.

    Args:
        overrides: The `--set` texts of a command that accepts one value per key.

    Raises:
        ConfigError: A setting was refused; the hint is added.
    """
    try:
        yield
    except ConfigError as error:
        several = [override for override in overrides if SEVERAL.search(override)]
        if not several:
            raise
        hint = f"{several[0]!r} holds several values: `nightbid sweep` tries them"
        raise ConfigError(error.what, where=error.where, hint=hint) from error


def known(pipeline: str, settings: Settings) -> str:
    """Check that a pipeline exists, and return its name.

    Raises:
        ConfigError: There is no pipeline of that name, or its YAML is broken.
    """
    return find_pipeline(pipeline, settings.pipelines).pipeline
