"""Takes turns between a pipeline's runs, one night at a time, coordinated in the workspace.

A run that may start takes the next number below `turns/<pipeline>/begun/`; taking it is exclusive,
so two runs never both start. A run that has to wait is recorded below `waiting/`; the one with the
earliest night goes first. Which Airflow runs are active is not recorded here but known to the
caller, so a dead run blocks no other run. A process that runs a night by itself (`nightbid run`)
keeps a lease below `held/` and renews it.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from upath import UPath

from nightbid.clock import heartbeat, is_beating, start_of
from nightbid.errors import NightbidError
from nightbid.night.record import HEARTBEAT, RunRecord, safe_run_id, state_of
from nightbid.night.sealed import Sealed, seal, unseal
from nightbid.partitions import Partition
from nightbid.storage.files import read_all, remove, write_atomically, write_once
from nightbid.storage.workspace import Workspace

RENEW_SECONDS = 15
HELD_SECONDS = 60
"""Age from which the lease of a process on another machine has expired."""
BEAT_SECONDS = 180
"""Age of the triggerer's heartbeat from which an Airflow run counts as ended."""
KEPT = 30
"""Number of newest turns to check: runs wait for these if they are active again (cleared)."""


class Turn(Sealed):
    """A run that has started, or waits to start."""

    run_id: str
    date: Partition
    """Night of the run."""


AtWork = Callable[[Sequence[str]], bool]
"""Returns whether at least one of these runs is active."""


class Turns:
    """The turns of one pipeline.

    Args:
        workspace: Workspace that holds the turns.
        pipeline: Name of the pipeline.
    """

    def __init__(self, workspace: Workspace, pipeline: str) -> None:
        self._folder = workspace.root / "turns" / pipeline

    def take(self, run_id: str, date: dt.date, at_work: AtWork, *, is_patient: bool = False) -> str:
        """Start a run, unless another one has to end or to start first.

        Calling it again is safe: a run that holds the newest turn has started.

        Args:
            run_id: Run to start.
            date: Night of the run.
            at_work: Returns whether one of some runs is active.
            is_patient: Record the run as waiting and start it at a later call, so that runs that
                are started together go in the order of their nights.

        Returns:
            The run to wait for; empty if this one has started. For a patient run with no other run
            to wait for, its own id.
        """
        own_turn = Turn(run_id=run_id, date=date)
        held = self._held() - {run_id}

        def busy(run_ids: Sequence[str]) -> bool:
            return bool(held.intersection(run_ids)) or at_work(run_ids)

        started = self._begun()
        newest = max(started, default=0)
        if newest and started[newest].run_id == run_id:
            self._stop_waiting(run_id)
            return ""
        waiting = {
            turn.run_id: turn for turn in self._read("waiting").values() if turn.run_id != run_id
        }
        before = {turn.run_id for number, turn in started.items() if number > newest - KEPT}
        # A cleared run that waits again does not block others, unless its turn is the newest.
        before -= {*waiting, run_id}
        if newest:
            before.add(started[newest].run_id)
        earlier = [turn for turn in waiting.values() if _order(turn) < _order(own_turn)]
        other = _first(sorted(before), busy) or _first(
            [turn.run_id for turn in sorted(earlier, key=_order)], busy
        )
        if other or is_patient:
            path = self._folder / "waiting" / f"{safe_run_id(run_id)}.json"
            write_atomically(path, seal(own_turn))
            return other or run_id
        try:
            write_once(self._folder / "begun" / f"{newest + 1:06d}.json", seal(own_turn))
        except FileExistsError:
            return self.take(run_id, date, at_work)
        self._stop_waiting(run_id)
        for number in started:
            if number <= newest - KEPT:
                remove(self._folder / "begun" / f"{number:06d}.json")
        return ""

    def has(self, run_id: str) -> bool:
        """Whether a run has the newest turn, that is, no other run has started since.

        A process that stalled for longer than its lease may have lost its turn.
        """
        folder = self._folder / "begun"
        names = [path.name for path in folder.iterdir()] if folder.exists() else []
        newest = max(
            (name for name in names if name.endswith(".json") and name[0] != "."), default=""
        )
        if not newest:
            return False
        path = folder / newest
        return unseal(Turn, path.read_bytes(), path, "delete this file").run_id == run_id

    @contextmanager
    def held(self, run_id: str) -> Iterator[None]:
        """Hold a lease that tells others that this process runs, or waits to run, the run."""
        # Processes on two machines may have the same process id.
        name = f"{safe_run_id(run_id)}.{os.getpid()}.{uuid.uuid4().hex[:8]}.json"
        path = self._folder / "held" / name
        write_atomically(path, _sign(run_id))
        with _renewed(path, run_id):
            try:
                yield
            finally:
                self._stop_waiting(run_id)

    @contextmanager
    def alone(self, run_id: str, wait: Callable[[], object]) -> Iterator[None]:
        """Keep other processes from working on the same run until the block ends.

        Processes that resume the same run, possibly with different settings, take turns: each takes
        the next number exclusively and waits for the living processes with lower numbers.

        Args:
            run_id: Run to lock.
            wait: Called repeatedly while another process works on the run.
        """
        folder, name = self._folder / "own", safe_run_id(run_id)
        number = _next_number(folder, name, run_id)
        path = folder / f"{name}.{number:06d}.json"
        with _renewed(path, run_id):
            while any(other < number and _is_alive(text)
                      for other, text in _numbers(folder, name).items()):  # fmt: skip
                wait()
            for other, text in _numbers(folder, name).items():
                if other < number and not _is_alive(text):
                    remove(folder / f"{name}.{other:06d}.json")
            yield

    def _held(self) -> set[str]:
        """Runs for which a living process holds a lease."""
        signs = read_all(self._folder / "held", ".json").values()
        return {str(json.loads(text)["run_id"]) for text in signs if _is_alive(text)}

    def _begun(self) -> dict[int, Turn]:
        return {int(name.removesuffix(".json")): turn for name, turn in self._read("begun").items()}

    def _read(self, kind: str) -> dict[str, Turn]:
        folder = self._folder / kind
        return {
            name: unseal(Turn, text, folder / name, "delete this file")
            for name, text in read_all(folder, ".json").items()
            if kind != "begun" or name.removesuffix(".json").isdigit()
        }

    def _stop_waiting(self, run_id: str) -> None:
        remove(self._folder / "waiting" / f"{safe_run_id(run_id)}.json")


def watched_runs(workspace: Workspace, pipeline: str) -> AtWork:
    """Return a function that checks run records, not Airflow, for whether a run is active.

    A run is active if it has not ended and its triggerer's heartbeat is recent.

    Args:
        workspace: Workspace with the records.
        pipeline: Name of the pipeline.
    """

    def is_watched(run_id: str) -> bool:
        path = workspace.run_folder(pipeline, safe_run_id(run_id)) / HEARTBEAT
        try:
            if not is_beating(path.read_text(encoding="utf-8"), BEAT_SECONDS):
                return False
            run = RunRecord.load(workspace, pipeline, safe_run_id(run_id))
        except (NightbidError, OSError, ValueError, KeyError, TypeError):
            return False
        return state_of(run.head, run.current())[0] == "running"

    return lambda run_ids: any(map(is_watched, run_ids))


def _sign(run_id: str) -> str:
    process = os.getpid()
    sign = {
        "run_id": run_id,
        "host": socket.gethostname(),
        "process": process,
        "start": start_of(process),
    }
    return json.dumps({**json.loads(heartbeat()), **sign})


@contextmanager
def _renewed(path: UPath, run_id: str) -> Iterator[None]:
    """Renew this process's lease until the block ends, then delete it."""
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(RENEW_SECONDS):
            with suppress(NightbidError, OSError):
                write_atomically(path, _sign(run_id))

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        remove(path)


def _is_alive(text: bytes | str) -> bool:
    """Whether the process of a lease is alive; an unreadable lease counts as expired."""
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        sign = json.loads(text)
        # Version 0.1, which may run during an upgrade, writes no start; some sandboxes have none.
        if sign["host"] == socket.gethostname() and sign.get("start"):
            return start_of(int(sign["process"])) == str(sign["start"])
        return is_beating(json.dumps(sign), HELD_SECONDS) and "run_id" in sign
    return False


def _numbers(folder: UPath, name: str) -> dict[int, bytes]:
    """Number → lease of every process that has claimed a run."""
    texts = {}
    for file, text in read_all(folder, ".json").items():
        run, _, number = file.removesuffix(".json").rpartition(".")
        if run == name and number.isdigit():
            texts[int(number)] = text
    return texts


def _next_number(folder: UPath, name: str, run_id: str) -> int:
    """Take a number above all others; a freed lower number is not used again."""
    while True:
        number = max(_numbers(folder, name), default=0) + 1
        path = folder / f"{name}.{number:06d}.json"
        with suppress(FileExistsError):
            write_once(path, _sign(run_id))
            if max(_numbers(folder, name), default=0) <= number:
                return number
            remove(path)


def _order(turn: Turn) -> tuple[dt.date, str]:
    return turn.date, turn.run_id


def _first(run_ids: Sequence[str], at_work: AtWork) -> str:
    """The first of some runs that is active; empty if none is."""
    if not run_ids or not at_work(run_ids):
        return ""
    return next((run_id for run_id in run_ids if at_work([run_id])), "")
