"""The queue before the model: short, in order, and refused at once where it would last too long."""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
        self._waiting: deque[Callable[[], None]] = deque()
        self._loop = asyncio.get_running_loop()
        self._is_running = False
        self._seconds = 0.001
        self._large = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="large")

    def __len__(self) -> int:
        return len(self._waiting) + self._large

    def submit(self, work: Callable[[], None]) -> None:
        """Call some small work when its turn has come.

        Args:
            work: Called without arguments; it raises nothing.

        Raises:
            OverloadedError: It would wait longer than the deadline.
        """
        waiting = len(self._waiting)
        if waiting >= ALWAYS and waiting * self._seconds > self._deadline:
            raise self._refusal()
        self._waiting.append(work)
        if not self._is_running:
            self._is_running = True
            # Not at once: requests that arrived together are counted before the first is run.
            self._loop.call_soon(self._run)

    async def do(self, work: Callable[[], Any], *, large: bool = False) -> Any:
        """Wait for the turn of some work, and return its result.

        Args:
            work: Called without arguments.
            large: It takes long, so it runs beside the small ones.

        Raises:
            OverloadedError: It would wait longer than the deadline.
        """
        if large:
            if self._large >= LARGE_WAITING:
                raise self._refusal()
            self._large += 1
            try:
                return await self._loop.run_in_executor(self._thread, work)
            finally:
                self._large -= 1
        future: asyncio.Future[Any] = self._loop.create_future()
        self.submit(functools.partial(_resolve, future, work))
        return await future

    def close(self) -> None:
        """Stop. Nothing may wait any more."""
        self._thread.shutdown()

    def _refusal(self) -> OverloadedError:
        return OverloadedError(
            f"{len(self)} requests wait, longer than {self._deadline * 1e3:g} ms",
            hint="send it again after Retry-After, or start more scorers",
        )

    def _run(self) -> None:
        begun = time.monotonic()  # the loop's own clock counts milliseconds
        self._waiting.popleft()()
        self._seconds += NEW_SHARE * (time.monotonic() - begun - self._seconds)
        self._rest(STEPS)

    def _rest(self, turns: int) -> None:
        """Let the loop read new requests, and refuse them, before the next one is run.

        Even if none waits: a crowd's would be read one by one as they are run, and wait unseen.
        """
        if turns:
            self._loop.call_soon(self._rest, turns - 1)
        elif self._waiting:
            self._run()
        else:
            self._is_running = False


def _resolve(future: asyncio.Future[Any], work: Callable[[], Any]) -> None:
    if future.done():  # its client is gone
        return
    try:
        future.set_result(work())
    except Exception as error:
        future.set_exception(error)
