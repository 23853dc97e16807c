"""The queue before the model: short, in order, and refused at once where it would last too long."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from nightbid.errors import NightbidError

ALWAYS = 8
"""Requests that may wait whatever they are expected to take."""
LARGE_WAITING = 4
"""Large requests that may wait."""
STEPS = 4
"""Turns of the event loop from a connection to a request in the queue."""
NEW_SHARE = 0.05
"""Weight of the newest request in the moving average of a request's seconds."""


class OverloadedError(NightbidError):
    """A request could not be answered within the deadline. Send it again later, or elsewhere."""


@dataclass(frozen=True)
class _Waiting:
    future: asyncio.Future[Any]
    work: Callable[[], Any]


class Backlog:
    """Runs one small request after the other on the event loop, large ones in a thread.

    A request is refused at once if those before it are expected to take longer than the deadline.
    Work runs on the loop itself: a request takes about a millisecond, and a thread would only
    compete with the loop for the interpreter.

    Args:
        deadline_ms: Longest expected wait.
    """

    def __init__(self, deadline_ms: float) -> None:
        self._deadline = deadline_ms / 1e3
        self._waiting: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._seconds = 0.001
        self._large = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="large")
        self._task = asyncio.get_running_loop().create_task(self._run())

    def __len__(self) -> int:
        return len(self._waiting) + self._large

    async def do(self, work: Callable[[], Any], *, large: bool = False) -> Any:
        """Wait for the turn of some work, and return its result.

        Args:
            work: Called without arguments.
            large: It takes long, so it runs beside the small ones.

        Raises:
            OverloadedError: It would wait longer than the deadline.
        """
        loop = asyncio.get_running_loop()
        if large:
            if self._large >= LARGE_WAITING:
                raise self._refusal()
            self._large += 1
            try:
                return await loop.run_in_executor(self._thread, work)
            finally:
                self._large -= 1
        expected = len(self._waiting) * self._seconds
        if len(self._waiting) >= ALWAYS and expected > self._deadline:
            raise self._refusal()
        one = _Waiting(loop.create_future(), work)
        self._waiting.append(one)
        self._wake.set()
        return await one.future

    async def close(self) -> None:
        """Stop. Nothing may wait any more."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._thread.shutdown()

    def _refusal(self) -> OverloadedError:
        return OverloadedError(
            f"{len(self)} requests wait, longer than {self._deadline * 1e3:g} ms",
            hint="send it again after Retry-After, or start more scorers",
        )

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            while self._waiting:
                one = self._waiting.popleft()
                if one.future.done():  # its client is gone
                    continue
                begun = loop.time()
                try:
                    one.future.set_result(one.work())
                except Exception as error:
                    one.future.set_exception(error)
                self._seconds += NEW_SHARE * (loop.time() - begun - self._seconds)
                for _ in range(STEPS):  # new requests are read, and refused, between two
                    await asyncio.sleep(0)
            await self._wake.wait()
