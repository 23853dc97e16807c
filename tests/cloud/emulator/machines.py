"""The machines of one start of a custom job: each replica's command as a process of this machine.

A process gets what a machine of the service would: the environment of the specification, TF_CONFIG,
a cache of its own, and nothing of the settings of whoever submitted.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

Heard = Callable[[int, str, bool], None]
"""Takes the rank of a replica, a line that it said, and whether that was an error's."""


class Machines:
    """The replicas of a job, from their start to their end.

    Args:
        pools: worker pools of the specification.
        project: of the job.
        home: a new folder.
        heard: takes every line.
    """

    def __init__(self, pools: Any, project: str, home: Path, heard: Heard) -> None:
        self._specs = [pool.container_spec for pool in pools for _ in range(pool.replica_count)]
        self._project = project
        self._home = home
        self._heard = heard
        self.processes: list[subprocess.Popen[str]] = []
        self.taken: list[int] = []
        """Ranks of those that a fault has taken away."""

    def run(self, cancelled: threading.Event) -> list[int]:
        """Run every command to its end; exit codes by rank, negative for a signal."""
        addresses = _addresses(len(self._specs))
        with ExitStack() as stack:
            for rank, spec in enumerate(self._specs):
                process = subprocess.Popen(
                    _command(spec),
                    env=self._environment(spec, rank, addresses),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                )
                self.processes.append(process)
                for stream in (process.stdout, process.stderr):
                    reader = threading.Thread(target=self._read, args=(rank, stream))
                    reader.start()
                    stack.callback(reader.join, 10)
                stack.callback(_end, process)
            while any(process.poll() is None for process in self.processes):
                if cancelled.wait(0.05) or any(process.poll() for process in self.processes):
                    # One that is gone leaves the others waiting for it.
                    for replica in self.processes:
                        _end(replica)
            return [process.wait() for process in self.processes]

    def take(self, rank: int | None) -> None:
        """Take a machine away; None: all of them."""
        for at in range(len(self.processes)) if rank is None else [rank]:
            self.taken.append(at)
            _end(self.processes[at])

    def _read(self, rank: int, stream: IO[str]) -> None:
        bad = stream is self.processes[rank].stderr
        for text in stream:
            self._heard(rank, text.rstrip("\n"), bad)

    def _environment(self, spec: Any, rank: int, addresses: list[str]) -> dict[str, str]:
        """What the image sets, what the specification sets, and what the service sets."""
        role, index = ("chief", 0) if rank == 0 else ("worker", rank - 1)
        cluster = {"chief": addresses[:1]}
        if len(addresses) > 1:
            cluster["worker"] = addresses[1:]
        task = {"type": role, "index": index}
        home = self._home / str(rank)
        home.mkdir(parents=True)
        return {
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
            "HOME": str(home),
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "NIGHTBID_CACHE": str(home / "cache"),
            **{variable.name: variable.value for variable in spec.env},
            "CLOUD_ML_PROJECT_ID": self._project,
            "TF_CONFIG": json.dumps(
                {"cluster": cluster, "task": task, "environment": "cloud", "job": "{}"}
            ),
        }


def _command(spec: Any) -> list[str]:
    """The image is this environment: its `python3` is ours."""
    command = [*spec.command, *spec.args]
    return [sys.executable, *command[1:]] if command[0] in ("python", "python3") else command


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _addresses(count: int) -> list[str]:
    with ExitStack() as stack:
        listeners = []
        for _ in range(count):
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            listeners.append(listener)
        return [f"127.0.0.1:{listener.getsockname()[1]}" for listener in listeners]
