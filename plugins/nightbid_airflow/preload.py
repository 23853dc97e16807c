"""Imports heavy libraries once, in the scheduler and the DAG processor, before they fork.

Great Expectations takes 10 s to import, TensorFlow 13 s and Beam 6 s (two shared cores); a night
has ten tasks that need one of them. None of the imports starts background work, so forking is safe.
Library code that is edited later is loaded again: see `current_code`.

As a program, ``python -m nightbid_airflow.preload scheduler`` runs an Airflow command, `scheduler`
or `dag-processor`, with these imports.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Iterable

from nightbid.night.source import parse_all
from nightbid.night.stages import NIGHT

LAZY = ("tensorflow", "keras", "tf2onnx", "great_expectations.expectations")
"""Modules that stages import within functions."""
DAG_FILES = (
    "airflow.dag_processing.processor",
    *(
        f"nightbid_airflow.{name}"
        for name in ("data_check", "night", "rehearse", "rescore", "scoring", "sweep")
    ),
)
"""Modules that every process needs that parses a DAG file: the DAG processor and each task."""


def preload() -> None:
    """Import the libraries of stages. Import errors are left to the task that needs the library."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    _import((*(stage.function.partition(":")[0] for stage in NIGHT), *LAZY))
    preload_dag_files()
    parse_all()


def preload_dag_files() -> None:
    """Import the modules of DAG files, each of which a new process parses every 30 s."""
    _import(DAG_FILES)
    from airflow.sdk import Asset

    # The first asset imports the URI handlers of all providers, including Google's client.
    Asset("nightbid://preloaded")


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
