"""What this machine spends on a stage: sampled from the operating system while it runs."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from types import TracebackType

import psutil

from nightbid.manifest import Usage


class ProcessMeter:
    """Meters the process tree of the caller between `with` and its end.

    Args:
        trail: a file that gets one JSON line per sample, for whoever watches.
        every: seconds between samples.
    """

    def __init__(self, trail: Path | None = None, every: float = 1.0) -> None:
        self._trail = trail
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._gb_seconds = 0.0
        self._children: dict[int, float] = {}
        self.usage = Usage()

    def __enter__(self) -> ProcessMeter:
        self._process = psutil.Process()
        self._started = time.monotonic()
        self._cpu = self._own_cpu()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._sample(0.0)

    def _own_cpu(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system + times.children_user + times.children_system

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(self._every):
            now = time.monotonic()
            self._sample(now - last)
            last = now

    def _sample(self, seconds: float) -> None:
        memory = self._process.memory_info().rss
        for child in self._process.children(recursive=True):
            try:
                memory += child.memory_info().rss
                times = child.cpu_times()
                self._children[child.pid] = times.user + times.system
            except psutil.NoSuchProcess:
                self._children.pop(child.pid, None)
        self._gb_seconds += memory / 1e9 * seconds
        alive = {child.pid for child in self._process.children(recursive=True)}
        running = sum(cpu for pid, cpu in self._children.items() if pid in alive)
        self.usage = Usage(
            cpu_seconds=self._own_cpu() - self._cpu + running,
            gb_seconds=self._gb_seconds,
            wall_seconds=time.monotonic() - self._started,
        )
        if self._trail:
            with self._trail.open("a") as stream:
                stream.write(json.dumps({"at": time.time(), **self.usage.model_dump()}) + "\n")
