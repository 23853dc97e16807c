"""Starts and terminates Airflow's components, in a session of their own.

Run as a program with the environment of `Home.environment`, the port of the API as its argument,
and a pipe as its standard input: when the pipe closes, all components are terminated. Airflow is
imported once, here; the components are forks.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from nightbid_airflow.embedded import process_group
from nightbid_airflow.preload import preload, preload_dag_files

Job = Callable[[], None]


def main(port: str) -> int:
    """Run until standard input closes or a component ends.

    Returns:
        0 if standard input was closed, 1 if a component exited by itself.
    """
    # The objects of Airflow's modules and routes are permanent; collecting them again and again
    # takes a sixth of the CPU time in which the API server starts.
    gc.set_threshold(50_000, 20, 20)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    logs = Path(os.environ["AIRFLOW__LOGGING__BASE_LOG_FOLDER"])
    ended = ""
    try:
        # Import here what all components need, so that all forks have it.
        airflow = airflow_command()
        database = fork(prepare_database, logs / "database.log")
        preload_dag_files()
        # The scheduler's own imports take longest and need no database.
        prepared, tell = os.pipe()
        scheduler = fork(partial(_schedule, airflow, prepared), logs / "scheduler.log")
        _, status = os.waitpid(database, 0)
        if status:
            ended = f"database {os.waitstatus_to_exitcode(status)}"
            return 1
        os.write(tell, b"1")
        api = ("api-server", "--host", "127.0.0.1", "--port", port, "--workers", "1")
        jobs = {
            "api-server": partial(airflow, *api),
            "dag-processor": partial(airflow, "dag-processor"),
            "triggerer": partial(airflow, "triggerer", "--skip-serve-logs"),
        }
        names = {fork(job, logs / f"{name}.log"): name for name, job in jobs.items()}
        ended = _wait({scheduler: "scheduler", **names})
        return 1 if ended else 0
    finally:
        if ended:
            print(ended, flush=True)  # noqa: T201  # the starter reads which one and its code
        process_group.end(os.getpid())


def airflow_command() -> Callable[..., None]:
    """Import Airflow; return a function that runs an Airflow command with its arguments."""
    from airflow.__main__ import main as entry

    def run(*arguments: str) -> None:
        sys.argv = ["airflow", *arguments]
        entry()  # type: ignore[no-untyped-call]

    return run


def _schedule(airflow: Callable[..., None], prepared: int) -> None:
    preload()
    if os.read(prepared, 1):
        airflow("scheduler", "--skip-serve-logs")


def prepare_database() -> None:
    """Create the tables of the metadata database, or migrate them."""
    from airflow.utils import db

    db.initdb()


def fork(job: Job, log: Path) -> int:
    """Run a function in a forked process.

    Args:
        job: Function to run.
        log: File for standard output and standard error of the process.

    Returns:
        Id of the process.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        with log.open("a") as stream, open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        job()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(names: dict[int, str]) -> str:
    """Wait until standard input closes or a component exits.

    Returns:
        Name of the component and its return code, negative for a signal; empty without one.
    """
    while True:
        readable, _, _ = select.select([sys.stdin], [], [], 0.5)
        if readable and not os.read(sys.stdin.fileno(), 1024):
            return ""
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in names:
            return f"{names[pid]} {os.waitstatus_to_exitcode(status)}"


def run(arguments: Sequence[str]) -> None:
    """Entry point."""
    sys.exit(main(arguments[0]))


if __name__ == "__main__":
    run(sys.argv[1:])
