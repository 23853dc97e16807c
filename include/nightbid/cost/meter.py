"""What this machine spends on a stage: sampled from the operating system while it runs.

The process tree is followed: children that ended are counted (their CPU and input/output moved to
the parent that waited for them), so are children whose parent died first, if a sample saw them
before. Resident memory is summed over the tree, pages that processes share counted in each.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

import psutil
from upath import UPath

from nightbid.errors import BudgetExceeded, WorkspaceError
from nightbid.night.manifest import Usage
from nightbid.night.progress import Progress
from nightbid.storage.workspace import is_local, write_atomically

log = logging.getLogger(__name__)

Judge = Callable[[Usage], str | None]
"""Callback: takes the usage so far, returns a reason to stop, or None."""

REMOTE_SECONDS = 5.0
"""Between two writes of a trail that is not of this machine, and two looks for its marker."""
ASK_AGAIN_SECONDS = 10.0
"""A library may swallow the interruption: it is repeated after this long."""


def cancel_marker(usage_log: UPath | Path) -> UPath:
    """Name the file whose presence asks the stage behind `trail` to stop."""
    return UPath(usage_log).with_suffix(".cancel")


@dataclass(frozen=True)
class _Spent:
    """Counters of processes since they began."""

    cpu: float = 0.0
    read: int = 0
    written: int = 0

    def __add__(self, other: _Spent) -> _Spent:
        return _Spent(self.cpu + other.cpu, self.read + other.read, self.written + other.written)


@dataclass(frozen=True)
class _Seen:
    process: psutil.Process
    spent: _Spent
    orphan: bool
    """Its parent ended first: no process of the tree waits for it and inherits its counters."""


class _Tree:
    """A process and all it started, those included that outlived their parent."""

    def __init__(self) -> None:
        self._root = psutil.Process()
        self._known: dict[int, _Seen] = {}
        self._ended_orphans = _Spent()
        self.resident_bytes = 0

    def measure(self) -> _Spent:
        """Counters of all since they began, the ended ones included."""
        total, self.resident_bytes = _counters(self._root)
        below = self._descendants([self._root.pid])
        for pid, seen in list(self._known.items()):
            if pid in below:
                continue
            if _is_alive(seen.process):
                self._known[pid] = _Seen(seen.process, seen.spent, orphan=True)
                continue
            if seen.orphan:
                self._ended_orphans += seen.spent
            # Else its parent waited for it, and the parent's counters now hold its own.
            del self._known[pid]
        orphans = [pid for pid, seen in self._known.items() if seen.orphan]
        below |= set(orphans) | self._descendants(orphans)
        for pid in below:
            known = self._known.get(pid)
            try:
                process = known.process if known else psutil.Process(pid)
                spent, resident = _counters(process)
            except psutil.Error:
                continue
            self._known[pid] = _Seen(process, spent, known.orphan if known else False)
            total += spent
            self.resident_bytes += resident
        return total + self._ended_orphans

    @staticmethod
    def _descendants(roots: list[int]) -> set[int]:
        # psutil's own walk reads every process of the machine; this reads only the tree.
        found: set[int] = set()
        queue = list(roots)
        while queue:
            fresh = set(_child_pids(queue.pop())) - found
            found |= fresh
            queue.extend(fresh)
        return found


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _child_pids(pid: int) -> list[int]:
    tasks = f"/proc/{pid}/task"
    try:
        threads = os.listdir(tasks)
    except FileNotFoundError:
        if os.path.isdir("/proc/self"):
            return []
        try:
            return [child.pid for child in psutil.Process(pid).children()]
        except psutil.Error:
            return []
    found: list[int] = []
    for thread in threads:
        try:
            with open(f"{tasks}/{thread}/children") as stream:
                found.extend(int(each) for each in stream.read().split())
        except OSError:
            continue
    return found


def _counters(process: psutil.Process) -> tuple[_Spent, int]:
    with process.oneshot():
        times = process.cpu_times()
        cpu = times.user + times.system + times.children_user + times.children_system
        resident = int(process.memory_info().rss)
        try:
            io = process.io_counters()
            read = int(getattr(io, "read_chars", io.read_bytes))
            written = int(getattr(io, "write_chars", io.write_bytes))
        except (psutil.Error, AttributeError):
            # Another user's process, or a system without these counters.
            read = written = 0
    return _Spent(float(cpu), read, written), resident


class ProcessMeter:
    """Meters the process tree of the caller between `with` and its end.

    While it runs it writes a usage log for watchers, and it stops the stage: when `judge`
    says so, or when the cancel marker appears beside the trail. Then BudgetExceeded is raised in
    the thread that entered.

    Args:
        trail: a file that gets one JSON line per sample, for watchers; one that is not of
            this machine holds the newest line only, and is written and looked at less often.
        every: seconds between samples.
        judge: the budget.
    """

    def __init__(
        self, usage_log: UPath | Path | None = None, every: float = 1.0, judge: Judge | None = None
    ) -> None:
        self._trail = usage_log
        self._exchanged = float("-inf")
        self._every = every
        self._judge = judge
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="nightbid-meter", daemon=True)
        self._gb_seconds = 0.0
        self._done = 0.0
        self._open = False
        self._asked = float("-inf")
        self._old_handler: object = None
        self.cancelled: str | None = None
        """Why the stage was told to stop, if it was."""
        self.usage = Usage()

    def __enter__(self) -> ProcessMeter:
        self._tree = _Tree()
        self._started = self._last = time.monotonic()
        self._before = self._tree.measure()
        self._caller = threading.get_ident()
        self._is_main = threading.current_thread() is threading.main_thread()
        if self._is_main:
            # Ignored by default, so that one which comes late does no harm; unlike an
            # asynchronous exception a signal also ends a sleep or a wait for a lock.
            self._old_handler = signal.signal(signal.SIGURG, self._on_signal)
        self._open = True
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        if self.cancelled and not isinstance(error, (BudgetExceeded, KeyboardInterrupt)):
            # The stage finished, or failed of the interruption: one clear line all the same.
            raise self._stop() from error

    def close(self) -> None:
        """End the metering. Safe to call again: an interruption may come just before the first."""
        if not self._open:
            return
        self._open = False
        self._end.set()
        self._thread.join()
        if self._is_main:
            signal.signal(signal.SIGURG, self._old_handler or signal.SIG_DFL)  # type: ignore[arg-type]
        else:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._caller), None)
        try:
            self._sample()
        except psutil.Error as error:
            log.debug("the last sample missed: %s", error)

    def follow(self, progress: Progress) -> Progress:
        """Pass progress on, noting the share done in the trail: projections need it."""

        def report(done: float, message: str = "") -> None:
            self._done = done
            progress(done, message)

        return report

    def _watch(self) -> None:
        while not self._end.wait(self._every):
            try:
                self._sample()
                self._enforce()
            except psutil.Error as error:
                log.debug("one sample missed: %s", error)
            except Exception:
                # A thread that dies in silence would leave the budget unwatched.
                log.exception("the usage of this stage could not be judged")

    def _sample(self) -> None:
        spent = self._tree.measure()
        now = time.monotonic()
        self._gb_seconds += self._tree.resident_bytes / 1e9 * (now - self._last)
        self._last = now
        old = self.usage
        self.usage = Usage(
            cpu_seconds=max(old.cpu_seconds, spent.cpu - self._before.cpu),
            gb_seconds=self._gb_seconds,
            bytes_read=max(old.bytes_read, spent.read - self._before.read),
            bytes_written=max(old.bytes_written, spent.written - self._before.written),
            wall_seconds=now - self._started,
        )
        if self._trail and self._is_time_to_exchange(now):
            line = {
                "at": time.time(),
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "done": self._done,
                **self.usage.model_dump(),
            }
            try:
                if is_local(self._trail):
                    with self._trail.open("a") as stream:
                        stream.write(json.dumps(line) + "\n")
                else:
                    write_atomically(self._trail, json.dumps(line))
            except (OSError, WorkspaceError) as error:
                # The stage goes on: what it uses is entered in the end all the same.
                log.warning("cannot write the usage trail %s: %s", self._trail, error)

    def _is_time_to_exchange(self, now: float) -> bool:
        """Whether the trail is due; a remote one costs a request each time."""
        assert self._trail is not None
        due = is_local(self._trail) or now - self._exchanged >= REMOTE_SECONDS or not self._open
        if due:
            self._exchanged = now
        return due

    def _enforce(self) -> None:
        if self.cancelled is None:
            self.cancelled = self._reason()
        now = time.monotonic()
        if self.cancelled and self._open and now - self._asked > ASK_AGAIN_SECONDS:
            self._asked = now
            self._interrupt()

    def _reason(self) -> str | None:
        # A remote marker is looked for whenever the trail was just written.
        if self._trail and (is_local(self._trail) or self._exchanged == self._last):
            marker = cancel_marker(self._trail)
            if marker.exists():
                return marker.read_text().strip() or "canceled"
        return self._judge(self.usage) if self._judge else None

    def _interrupt(self) -> None:
        if self._is_main:
            signal.pthread_kill(self._caller, signal.SIGURG)
        else:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._caller), ctypes.py_object(_Interrupted)
            )

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._open and self.cancelled:
            raise self._stop()

    def _stop(self) -> BudgetExceeded:
        return BudgetExceeded(
            self.cancelled or "canceled",
            where="budget",
            hint="raise the limit in the pipeline's budget block, or make the stage cheaper",
        )


class _Interrupted(BaseException):
    """Ends a stage that runs in a thread; the meter turns it into BudgetExceeded.

    Not an `Exception`: a handler for whatever may go wrong in a stage must not take it for that.
    """
