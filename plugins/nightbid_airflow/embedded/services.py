"""Starts the embedded Airflow, waits until it is healthy, and terminates it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from nightbid.config.settings import Settings
from nightbid.errors import StageError
from nightbid.processes import how_it_ended

from nightbid_airflow.embedded import process_group
from nightbid_airflow.embedded.client import AirflowClient
from nightbid_airflow.embedded.home import USER, Home, address, free_port

START_SECONDS = 400.0


@dataclass(frozen=True)
class Airflow:
    """A running embedded Airflow: its home, client and supervisor process."""

    home: Home
    client: AirflowClient
    supervisor: subprocess.Popen[str]

    def check(self) -> None:
        """Check that Airflow is still running.

        Raises:
            StageError: A component exited unexpectedly.
        """
        code = self.supervisor.poll()
        if code is None:
            return
        ended = self.supervisor.stdout.read().split() if self.supervisor.stdout else []
        name, code = (ended[0], int(ended[1])) if ended else ("supervisor", code)
        log = self.home.logs / f"{name}.log"
        raise StageError(
            f"the {name} of the embedded Airflow {how_it_ended(code, log)}",
            where="airflow",
            hint=f"see {log}, then start it again; the nights resume",
        )


def start_supervisor(port: int, environment: dict[str, str], log: IO[str]) -> subprocess.Popen[str]:
    """Start the supervisor, which starts all other processes, as the leader of a session.

    Args:
        port: Port of the API server.
        environment: All environment variables of the process.
        log: File for standard error of the process.
    """
    return subprocess.Popen(  # noqa: S603  # our own module
        [sys.executable, "-m", "nightbid_airflow.embedded.supervisor", str(port)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        start_new_session=True,
    )


@contextmanager
def embedded(
    home: Home, settings: Settings, port: int = 0, *, schedules: bool = False
) -> Iterator[Airflow]:
    """Start Airflow, and terminate all of its processes on exit.

    Args:
        home: Airflow home, locked meanwhile.
        settings: Settings of the installation.
        port: Port of the API and the pages; 0 for a free one.
        schedules: Whether nights also start by their cron expressions.

    Raises:
        ConfigError: The port or the home is in use.
        StageError: Airflow did not become healthy.
    """
    with home.locked():
        port = free_port(port)
        with (home.logs / "supervisor.log").open("w") as log:
            supervisor = start_supervisor(port, home.environment(settings, port, schedules), log)
        try:
            with AirflowClient(address(port), USER, home.password()) as client:
                airflow = Airflow(home, client, supervisor)
                _wait_until_healthy(airflow)
                yield airflow
        finally:
            _end(supervisor)


def _wait_until_healthy(airflow: Airflow) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not airflow.client.is_healthy():
        airflow.check()
        if time.monotonic() > deadline:
            raise StageError(
                f"the embedded Airflow is not healthy after {START_SECONDS:g} s",
                where="airflow",
                hint=f"see the logs in {airflow.home.logs}",
            )
        time.sleep(0.5)


def _end(supervisor: subprocess.Popen[str]) -> None:
    if supervisor.stdin:
        supervisor.stdin.close()
    try:
        supervisor.wait(process_group.PATIENCE + 5)
    except subprocess.TimeoutExpired:
        supervisor.kill()
        supervisor.wait()
    finally:
        # If the supervisor was killed, the processes of its session still exist.
        process_group.end(supervisor.pid, patience=2)
