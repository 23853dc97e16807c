"""Heavy libraries, imported once: tasks are forks of the scheduler, parsers of DAG files of theirs.

Great Expectations takes 10 s to import, TensorFlow 13 s, Beam 6 s (two shared cores); a night has
ten tasks that need one of them. None of the imports starts work of its own, so a fork is safe.
"""

from __future__ import annotations

import importlib
import os
import traceback
from collections.abc import Iterable

from nightbid.night.stages import NIGHT

LAZY = ("tensorflow", "keras", "tf2onnx", "great_expectations.expectations")
"""Imported by stages within functions."""
DAG_FILES = (
    "airflow.dag_processing.processor",
    *(
        f"nightbid_airflow.{name}"
        for name in ("data_check", "night", "rehearse", "rescore", "scoring", "sweep")
    ),
)
"""Imported by what parses a DAG file: the DAG processor, and every task."""


def preload() -> None:
    """Import what stages need. A fault is left to the task that meets it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    _import((*(stage.function.partition(":")[0] for stage in NIGHT), *LAZY))
    preload_dag_files()


def preload_dag_files() -> None:
    """Import what DAG files need: every 30 s, each is parsed in a process of its own."""
    _import(DAG_FILES)
    from airflow.sdk import Asset

    # The first asset imports what providers know of addresses, Google's client among it.
    Asset("nightbid://preloaded")


def _import(names: Iterable[str]) -> None:
    for name in names:
        try:
            importlib.import_module(name)
        except Exception:
            traceback.print_exc()
