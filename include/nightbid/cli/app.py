"""`nightbid`: the command-line entry point, which needs no Airflow."""

from __future__ import annotations

import codecs
import importlib
import io
import logging
import os
import sys
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError
from rich.console import Console

from nightbid.cli.root import app
from nightbid.config.settings import Settings
from nightbid.errors import DataError, NightbidError, StageError, WorkspaceError
from nightbid.night.sealed import first_fault
from nightbid.shortages import remedy

# In the order of the panels of `nightbid --help`.
for _panel in ("nights", "models", "serving", "upkeep"):
    importlib.import_module(f"nightbid.cli.commands.{_panel}")

for _group, _help in (
    ("data", "Inspect, download or generate logs; freeze, prune or erase data."),
    ("gates", "Show, learn and override gate limits."),
    ("cost", "Show and forecast the cost of runs."),
    ("incremental", "Show the days that incremental nights learned; undo a day."),
    ("bids", "Replay logged auctions: what other predictions would have earned."),
):
    app.add_typer(
        importlib.import_module(f"nightbid.cli.{_group}").app,
        name=_group,
        help=_help,
        rich_help_panel="Groups",
    )

CHECK = "check the workspace's disk and permissions; a rerun is safe"


def main() -> None:
    """Entry point: prints a user error as one line, not as a traceback."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal or pipe that is not UTF-8 shows `?`.
        if isinstance(stream, io.TextIOWrapper) and codecs.lookup(stream.encoding).name != "utf-8":
            stream.reconfigure(errors="replace")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # Hide TensorFlow's start-up notices; its errors are still shown.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        app([_with_home(argument) for argument in sys.argv[1:]])
    except NightbidError as error:
        if error.hint == StageError.see_traceback:
            traceback.print_exception(error.__cause__)
        _say(type(error).__name__, str(error), error.exit_code)
    except BrokenPipeError:
        raise
    except (OSError, ValidationError) as error:
        # A full disk, missing permission or a damaged record is not a bug, so no traceback.
        code = WorkspaceError.exit_code if isinstance(error, OSError) else DataError.exit_code
        _say(type(error).__name__, f"{first_fault(error)} → {_what_helps(error)}", code)
    except (MemoryError, RuntimeError) as error:
        if not (what_helps := remedy(error)):
            raise
        _say(type(error).__name__, f"{error or 'memory ran out'} → {what_helps}")


def _what_helps(error: Exception) -> str:
    folders = [tempfile.gettempdir()]
    with suppress(NightbidError):
        folders.append(Settings().workspace)
    what_helps = remedy(error, folders)
    return f"{what_helps}; a rerun is safe" if what_helps else CHECK


def _with_home(argument: str) -> str:
    """Replace the `~` of `--to=~/days`, as shells do for `--to ~/days` only."""
    option, _, value = argument.partition("=")
    if not option.startswith("--") or not value.startswith("~/"):
        return argument
    return f"{option}={Path(value).expanduser()}"


def _say(kind: str, line: str, code: int = 1) -> NoReturn:
    Console(stderr=True).print(f"[bold red]{kind}[/] ", end="")
    Console(stderr=True, markup=False, highlight=False).print(line, soft_wrap=True)
    sys.exit(code)
