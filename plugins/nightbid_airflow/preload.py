"""Imports heavy libraries once, in the scheduler and the DAG processor, before they fork.

Great Expectations takes 10 s to import, TensorFlow 13 s and Beam 6 s (two shared cores); a night
has ten tasks that need one of them. None of the imports starts background work, so forking is safe.
Library code that is edited later is loaded again: see `current_code`.

As a program, ``python -m nightbid_airflow.preload scheduler`` runs an Airflow command, `scheduler`
or `dag-processor`, with these imports.
"""

from __future__ import annotations

import ast
import importlib
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from nightbid.night.source import parse_all
from nightbid.night.stages import NIGHT

LAZY = ("tensorflow", "keras", "tf2onnx", "great_expectations.expectations")
"""Modules that stages import within functions."""


def preload() -> None:
    """Import the libraries of stages. Import errors are left to the task that needs the library."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    _import((*(stage.function.partition(":")[0] for stage in NIGHT), *LAZY))
    preload_dag_files()
    parse_all()


def preload_dag_files() -> None:
    """Import the modules of DAG files, each of which a new process parses every 30 s."""
    from airflow.configuration import conf

    folder = Path(conf.get_mandatory_value("core", "dags_folder"))
    _import(("airflow.dag_processing.processor", *modules_of_dag_files(folder)))
    from airflow.sdk import Asset

    # The first asset imports the URI handlers of all providers, including Google's client.
    Asset("nightbid://preloaded")


def modules_of_dag_files(folder: Path) -> list[str]:
    """List the modules of this package that the DAG files of a folder import, sorted.

    Args:
        folder: Folder of DAG files. Files that cannot be parsed are left out: Airflow reports them.
    """
    modules = set()
    for file in folder.rglob("*.py"):
        try:
            statements = ast.parse(file.read_bytes()).body
        except (OSError, SyntaxError, ValueError):
            continue
        for statement in statements:
            if isinstance(statement, ast.ImportFrom) and statement.module:
                modules.add(statement.module)
            elif isinstance(statement, ast.Import):
                modules |= {name.name for name in statement.names}
    return sorted(name for name in modules if name.partition(".")[0] == "nightbid_airflow")


def _import(names: Iterable[str]) -> None:
    for name in names:
        try:
            importlib.import_module(name)
        except Exception:
            traceback.print_exc()


def main() -> None:
    """Run an Airflow command with the arguments of this program."""
    if sys.argv[1:2] == ["scheduler"]:
        preload()
    else:
        preload_dag_files()
    from airflow.__main__ import main as entry

    entry()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
