"""The machines of one start of a custom job: each replica runs as a local process.

A process gets what a machine of the service gets: the environment of the specification, TF_CONFIG
and an empty cache, but none of the submitter's settings.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

from nightbid.free_ports import free_ports

Heard = Callable[[int, str, bool], None]
"""Takes the rank of a replica, a line of its output, and whether it came from standard error."""


class Machines:
    """Runs the replicas of a job from their start to their end.

    Args:
        pools: Worker pools of the specification.
        project: Project that runs the job.
        home: New folder for the replicas' homes.
        heard: Function that takes every line of output.
    """

    def __init__(self, pools: Any, project: str, home: Path, heard: Heard) -> None:
        self._specs = [pool.container_spec for pool in pools for _ in range(pool.replica_count)]
        self._project = project
        self._home = home
        self._heard = heard
        self.processes: list[subprocess.Popen[str]] = []
        self.taken: list[int] = []
        """Ranks of the replicas that a fault has ended."""

    def run(self, cancelled: threading.Event) -> list[int]:
        """Run every command and return the exit codes by rank; a signal's is negative."""
        addresses = [f"127.0.0.1:{port}" for port in free_ports(len(self._specs))]
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
                    # The other replicas would wait forever for one that has failed.
                    for replica in self.processes:
                        _end(replica)
            return [process.wait() for process in self.processes]

    def take(self, rank: int | None) -> None:
        """End a machine; None ends all of them."""
        for at in range(len(self.processes)) if rank is None else [rank]:
            self.taken.append(at)
            _end(self.processes[at])

    def _read(self, rank: int, stream: IO[str]) -> None:
        bad = stream is self.processes[rank].stderr
        for text in stream:
            self._heard(rank, text.rstrip("\n"), bad)

    def _environment(self, spec: Any, rank: int, addresses: list[str]) -> dict[str, str]:
        """Return the variables that the image, the specification and the service set."""
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
    """Return the command; the image's `python3` is the Python of this environment."""
    command = [*spec.command, *spec.args]
    return [sys.executable, *command[1:]] if command[0] in ("python", "python3") else command


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
