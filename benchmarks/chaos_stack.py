"""An Airflow whose components can be killed one by one, and restarted as Compose would.

Its nights do trivial work (`chaos_stages.py`). Run as a program with the API's port as argument, it
forks the components and reads commands from standard input: `hold NAME` (do not restart it),
`free NAME` (restart it at once) and `end`. It prints `NAME PROCESS` at every start.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil

COMPONENTS = ("scheduler", "triggerer", "dag-processor", "api-server")


def serve(port: str) -> None:
    """Keep the components running until the input ends."""
    if os.getsid(0) != os.getpid():
        os.setsid()
    import chaos_stages

    chaos_stages.install()
    from nightbid_airflow.embedded import process_group, supervisor
    from nightbid_airflow.preload import preload_dag_files

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    logs = Path(os.environ["AIRFLOW__LOGGING__BASE_LOG_FOLDER"])
    airflow = supervisor.airflow_command()
    _, status = os.waitpid(supervisor.fork(supervisor.prepare_database, logs / "database.log"), 0)
    if status:
        return
    preload_dag_files()
    for module in ("chaos_night", "nightbid.preflight"):  # further imports of a task
        importlib.import_module(module)
    jobs: Mapping[str, Callable[[], None]] = {
        "scheduler": partial(airflow, "scheduler", "--skip-serve-logs"),
        "triggerer": partial(airflow, "triggerer", "--skip-serve-logs"),
        "dag-processor": partial(airflow, "dag-processor"),
        "api-server": partial(airflow, "api-server", "--host", "127.0.0.1", "--port", port,
                              "--workers", "1"),
    }  # fmt: skip
    running: dict[int, str] = {}
    held: set[str] = set()
    due = dict.fromkeys(COMPONENTS, 0.0)
    try:
        while True:
            for name, moment in list(due.items()):
                if name not in held and time.monotonic() >= moment:
                    del due[name]
                    process = supervisor.fork(jobs[name], logs / f"{name}.log")
                    running[process] = name
                    sys.stdout.write(f"{name} {process}\n")
                    sys.stdout.flush()
            if select.select([sys.stdin], [], [], 0.2)[0]:
                word, _, name = sys.stdin.readline().strip().partition(" ")
                if word == "hold":
                    held.add(name)
                elif word == "free":
                    held.discard(name)
                else:
                    return
            with contextlib.suppress(ChildProcessError):
                ended, _ = os.waitpid(-1, os.WNOHANG)
                if ended in running:
                    due[running.pop(ended)] = time.monotonic() + 1
    finally:
        process_group.end(os.getpid(), patience=3)


class Stack:
    """A running Airflow.

    Args:
        environment: Environment of every component.
        port: Port of the API.
        log: File for the output of the program itself.
    """

    def __init__(self, environment: Mapping[str, str], port: int, log: Path) -> None:
        self._processes: dict[str, int] = {}
        self.starts: list[str] = []
        """Names of the components, in the order of their starts."""
        with log.open("a") as stream:
            self._program = subprocess.Popen(
                [sys.executable, __file__, str(port)],
                env=dict(environment), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=stream, start_new_session=True,
            )  # fmt: skip
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._program.stdout is not None
        for line in self._program.stdout:
            name, _, process = line.partition(" ")
            self._processes[name] = int(process)
            self.starts.append(name)

    def check(self) -> None:
        """Fail if the program has ended."""
        assert self._program.poll() is None, "the components did not start: see the logs"

    def _say(self, line: str) -> None:
        assert self._program.stdin is not None
        self._program.stdin.write(line + "\n")
        self._program.stdin.flush()

    def kill(self, name: str, *, family: bool) -> None:
        """Kill a component with -9; it stays down until `start`.

        Args:
            name: Name of the component.
            family: Whether to kill its descendants too, as when a container is killed.
        """
        self._say(f"hold {name}")
        time.sleep(0.5)
        with contextlib.suppress(psutil.NoSuchProcess, KeyError):
            process = psutil.Process(self._processes[name])
            descendants = process.children(recursive=True) if family else []
            for victim in (process, *descendants):
                with contextlib.suppress(psutil.NoSuchProcess):
                    victim.kill()

    def start(self, name: str) -> None:
        """Restart a killed component."""
        self._say(f"free {name}")

    def tasks(self, *, workers: bool = False) -> list[psutil.Process]:
        """Return the processes in which tasks run: descendants of the scheduler's workers.

        Args:
            workers: Whether to include the workers.
        """
        processes = []
        with contextlib.suppress(psutil.NoSuchProcess, KeyError):
            for worker in psutil.Process(self._processes["scheduler"]).children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    descendants = worker.children(recursive=True)
                    processes += [worker, *descendants] if workers and descendants else descendants
        return processes

    def end(self) -> None:
        """End every process."""
        from nightbid_airflow.embedded import process_group

        with contextlib.suppress(OSError):
            self._say("end")
        try:
            self._program.wait(30)
        except subprocess.TimeoutExpired:
            self._program.kill()
            self._program.wait()
        process_group.end(self._program.pid, patience=0)


@contextmanager
def running(environment: Mapping[str, str], port: int, log: Path) -> Iterator[Stack]:
    """Start a stack, and end it on exit."""
    stack = Stack(environment, port, log)
    try:
        yield stack
    finally:
        stack.end()


if __name__ == "__main__":
    serve(sys.argv[1])
