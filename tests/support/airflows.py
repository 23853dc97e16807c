"""Starts the embedded Airflow as a fork of the server of preloaded.py; runs DAGs without it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from preloaded import COMMANDS

DAGS = Path(__file__).resolve().parents[2] / "dags"
START_SECONDS = 500.0
"""Seconds to wait for Airflow, because other tests may keep the machine busy."""
PARSE_SECONDS = "300"
"""Seconds between parses of a DAG file; pipelines are written before Airflow starts."""


@contextmanager
def embedded(home: Any, settings: Any, **more: Any) -> Iterator[Any]:
    """Serve an Airflow like `nightbid_airflow.embedded.services.embedded`, with less CPU time."""
    from nightbid_airflow.embedded import services

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(services, "START_SECONDS", START_SECONDS)
        patch.setattr(services, "start_supervisor", COMMANDS.supervisor)
        patch.setenv("AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL", PARSE_SECONDS)
        with services.embedded(home, settings, **more) as airflow:
            yield airflow


def run_dag(dag_id: str, **conf: Any) -> dict[str, str | None]:
    """Run a nightly DAG in this process with `dag.test()`; return the states of run and tasks.

    Each time that only the states of later tasks change, `dag.test` waits for a second. This
    shortens that pause, but no other. It also parses the folder of DAG files again, which is left
    out here.
    """
    from airflow.dag_processing import dagbag
    from airflow.sdk import DAG

    bag = dagbag.DagBag(str(DAGS / "nightly.py"), bundle_path=DAGS, bundle_name="dags-folder")
    assert not bag.import_errors
    sleep = time.sleep

    def paused(seconds: float) -> None:
        is_loop = sys._getframe(1).f_code is DAG.test.__code__
        sleep(0.05 if is_loop else seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", paused)
        patch.setattr(dagbag, "BundleDagBag", lambda **_: bag)
        run = bag.dags[dag_id].test(logical_date=None, run_conf=conf)
    return {"run": run.state} | {task.task_id: task.state for task in run.get_task_instances()}
