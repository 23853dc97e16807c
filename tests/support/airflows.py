"""Starts the embedded Airflow as a fork of the server of preloaded.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from preloaded import COMMANDS

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
