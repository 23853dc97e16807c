"""Meters the resources that a stage uses on this machine, sampled from the operating system.

The meter covers the process tree. Children that have ended are counted, because their CPU and
input/output move to the parent that waited for them; so are children whose parent died first, if a
sample saw them before. Resident memory is summed over the tree, with shared pages counted in each
process.
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
from nightbid.storage.files import is_local, write_atomically

log = logging.getLogger(__name__)

Judge = Callable[[Usage], str | None]
"""Callback: takes the usage so far, returns a reason to stop, or None."""

REMOTE_SECONDS = 5.0
"""Seconds between two writes of a remote usage log, and two checks for its cancel marker."""
ASK_AGAIN_SECONDS = 10.0
"""Seconds after which an interruption is repeated, because a library may swallow it."""


def cancel_marker(usage_log: UPath | Path) -> UPath:
    """Get the path of the file whose existence asks the stage of a usage log to stop."""
    return UPath(usage_log).with_suffix(".cancel")


@dataclass(frozen=True)
class _ProcessCounters:
    """Counters of processes since their start: CPU seconds, bytes read and written."""

    cpu: float = 0.0
    read: int = 0
    written: int = 0

    def __add__(self, other: _ProcessCounters) -> _ProcessCounters:
        return _ProcessCounters(
            self.cpu + other.cpu, self.read + other.read, self.written + other.written
        )


@dataclass(frozen=True)
class _SeenProcess:
    process: psutil.Process
    spent: _ProcessCounters
    orphan: bool
    """Whether the parent ended first, so that no process of the tree inherits the counters."""


class _Tree:
    """A process and all its descendants, including those that outlived their parent."""

    def __init__(self) -> None:
        self._root = psutil.Process()
        self._known: dict[int, _SeenProcess] = {}
        self._ended_orphans = _ProcessCounters()
        self.resident_bytes = 0

    def measure(self) -> _ProcessCounters:
        """Get the counters of all processes since their start, including ended processes."""
        total, self.resident_bytes = _counters(self._root)
        below = self._descendants([self._root.pid])
        for pid, seen in list(self._known.items()):
            if pid in below:
                continue
            if _is_alive(seen.process):
                self._known[pid] = _SeenProcess(seen.process, seen.spent, orphan=True)
                continue
            if seen.orphan:
                self._ended_orphans += seen.spent
            # Otherwise the parent waited for it, and its counters include the child's.
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
            self._known[pid] = _SeenProcess(process, spent, known.orphan if known else False)
            total += spent
            self.resident_bytes += resident
        return total + self._ended_orphans

    @staticmethod
    def _descendants(roots: list[int]) -> set[int]:
        # psutil's own walk reads all processes of the machine; this reads only the tree.
        pids: set[int] = set()
        queue = list(roots)
        while queue:
            fresh = set(_child_pids(queue.pop())) - pids
            pids |= fresh
            queue.extend(fresh)
        return pids


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
    children: list[int] = []
    for thread in threads:
        try:
            with open(f"{tasks}/{thread}/children") as stream:
                children.extend(int(child) for child in stream.read().split())
        except OSError:
            continue
    return children


def _counters(process: psutil.Process) -> tuple[_ProcessCounters, int]:
    with process.oneshot():
        times = process.cpu_times()
        cpu = times.user + times.system + times.children_user + times.children_system
        resident = int(process.memory_info().rss)
        try:
            io = process.io_counters()
            read = int(getattr(io, "read_chars", io.read_bytes))
            written = int(getattr(io, "write_chars", io.write_bytes))
        except (psutil.Error, AttributeError):
            # The process belongs to another user, or the system lacks these counters.
            read = written = 0
    return _ProcessCounters(float(cpu), read, written), resident


class ProcessMeter:
    """Context manager that meters the process tree of the caller.

    It writes a usage log for watchers. It stops the stage if `judge` returns a reason or if the
    cancel marker appears next to the usage log: then BudgetExceeded is raised in the thread that
    entered the context.

    Args:
        usage_log: File for one JSON line per sample; None for none. A file on another machine (a
            bucket) has only the newest line, and is written and checked less often.
        every: Seconds between samples.
        judge: Budget check; None for none.
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
        """Reason why the stage was asked to stop; None if it was not."""
        self.usage = Usage()

    def __enter__(self) -> ProcessMeter:
        self._tree = _Tree()
        self._started = self._last = time.monotonic()
        self._before = self._tree.measure()
        self._caller = threading.get_ident()
        self._is_main = threading.current_thread() is threading.main_thread()
        if self._is_main:
            # The signal is ignored by default, so a late one does no harm. Unlike an asynchronous
            # exception, a signal also interrupts a sleep or a wait for a lock.
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
            # Raise one clear line, whether the stage finished or the interruption made it fail.
            raise self._stop() from error

    def close(self) -> None:
        """Stop metering. Safe to call twice, since an interruption may occur just before a call."""
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
        """Wrap a progress callback to write the share done to the usage log, for projections."""

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
                # If the thread died silently, nothing would watch the budget.
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
                # The stage continues; its total usage is recorded at its end anyway.
                log.warning("cannot write the usage trail %s: %s", self._trail, error)

    def _is_time_to_exchange(self, now: float) -> bool:
        """Whether the usage log is due to be written; a remote one costs a request each time."""
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
        # Check for a remote marker only when the usage log was just written.
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
    """Interrupts a stage that runs in a thread; the meter turns it into BudgetExceeded.

    It is not an `Exception`, so that general error handlers in a stage do not catch it.
    """
