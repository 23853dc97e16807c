"""Queue of runs to be logged: one file each in the workspace, removed when logged."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from upath import UPath

from nightbid.night.sealed import unseal
from nightbid.storage.files import write_atomically
from nightbid.storage.workspace import Workspace
from nightbid.tracking.payload import Payload

DELETE = "delete this file, then `nightbid track PIPELINE RUN` queues the run again"


class Queue:
    """The queued runs of a workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._folder: UPath = workspace.root / "tracking" / "queue"

    def put(self, payload: Payload) -> None:
        """Add a run; a newer state of the same run replaces the older one."""
        name = f"{payload.experiment}.{payload.run_id}.json"
        write_atomically(self._folder / name, payload.model_dump_json())

    def waiting(self) -> list[Payload]:
        """Return all queued runs, the earliest ended first."""
        if not self._folder.exists():
            return []
        paths = [path for path in self._folder.iterdir() if self._is_entry(path)]
        payloads = [unseal(Payload, path.read_bytes(), path, DELETE) for path in paths]
        return sorted(payloads, key=lambda payload: (payload.ended, payload.run_id))

    def holds(self, experiment: str, run_id: str) -> bool:
        """Return whether a run is queued."""
        return (self._folder / f"{experiment}.{run_id}.json").exists()

    def done(self, payload: Payload) -> None:
        """Remove a run, unless a newer state of it was queued meanwhile."""
        path = self._folder / f"{payload.experiment}.{payload.run_id}.json"
        if not path.exists():
            return
        newest = unseal(Payload, path.read_bytes(), path, DELETE)
        if newest.digest == payload.digest:
            path.unlink(missing_ok=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Lock out other processes of this machine, so that no run is logged twice."""
        if not self._workspace.is_local:
            yield
            return
        folder = Path(str(self._folder))
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @staticmethod
    def _is_entry(path: UPath) -> bool:
        return path.name.endswith(".json") and not path.name.startswith(".")
