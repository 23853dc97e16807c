"""Heavy libraries, imported once in the scheduler: every task is a fork of it.

Great Expectations takes 10 s to import, TensorFlow 13 s, Beam 6 s (two shared cores); a night has
ten tasks that need one of them. None of the imports starts work of its own, so a fork is safe.
"""

from __future__ import annotations

import importlib
import os
import traceback

from nightbid.night.stages import NIGHT

LAZY = ("tensorflow", "keras", "tf2onnx", "great_expectations.expectations")
"""Imported by stages within functions."""
AIRFLOW = ("airflow.dag_processing.dagbag", "nightbid_airflow.night")
"""Imported by a task that parses its DAG."""


def preload() -> None:
    """Import what stages need. A fault is left to the task that meets it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    for module in (*(stage.function.partition(":")[0] for stage in NIGHT), *LAZY, *AIRFLOW):
        try:
            importlib.import_module(module)
        except Exception:
            traceback.print_exc()
