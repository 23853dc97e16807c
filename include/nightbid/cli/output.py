"""Output of commands: tables that fit the terminal and are wide in pipes, and JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import fields, is_dataclass
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.console import Console

WIDE = 400
"""Width of tables in a pipe or a file, in characters, so that nothing is folded."""
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def terminal() -> Console:
    """Make a console as wide as the terminal, or `WIDE` characters wide in pipes and files.

    The environment variable COLUMNS sets the width in either case. Strings are printed literally,
    since values of the logs may contain brackets; use `Text.from_markup(…)` for markup.
    """
    console = Console(markup=False)
    if not console.is_terminal and "COLUMNS" not in console._environ:
        console = Console(width=WIDE, markup=False)
    return console


def print_json(value: Any) -> None:
    """Print a value as JSON on standard output; it may contain models, dates and decimals."""
    sys.stdout.write(json.dumps(value, indent=1, default=_plain, ensure_ascii=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return str(value)
