"""Bounded queue in front of the model: requests that would wait too long are rejected at once."""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nightbid.counts import are, counted
from nightbid.errors import NightbidError

ALWAYS = 8
"""Number of requests that may wait regardless of their expected time."""
LARGE_WAITING = 4
"""Maximum number of large requests that wait or run."""
STEPS = 4
"""Event-loop iterations between accepting a connection and queuing its request."""
NEW_SHARE = 0.05
"""Weight of the latest request in the moving average of seconds per request."""


class OverloadedError(NightbidError):
    """Raised when a request would miss the deadline. Retry it later, or on another scorer."""


class Backlog:
    """Runs small requests one after the other on the event loop, and large ones in a thread.

    A request is rejected at once if those before it are expected to exceed the deadline. Small
    requests run on the loop itself: one takes about a millisecond, and a thread would only compete
    with the loop for the GIL.

    Args:
        deadline_ms: Maximum expected wait in milliseconds.
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
        """Queue a small piece of work, to be called in turn.

        Args:
            work: Function without arguments; must not raise.

        Raises:
            OverloadedError: The work would wait longer than the deadline.
        """
        waiting = len(self._waiting)
        if waiting >= ALWAYS and waiting * self._seconds > self._deadline:
            raise self._refusal()
        self._waiting.append(work)
        if not self._is_running:
            self._is_running = True
            # Deferred: requests that arrive together are counted before the first one runs.
            self._loop.call_soon(self._run)

    async def do(self, work: Callable[[], Any], *, large: bool = False) -> Any:
        """Run work when its turn comes, and return its result.

        Args:
            work: Function without arguments.
            large: Whether it takes long; it then runs in a thread, in parallel to small work.

        Raises:
            OverloadedError: The work would wait longer than the deadline.
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
        """Shut down the thread for large requests. No work may be waiting."""
        self._thread.shutdown()

    def _refusal(self) -> OverloadedError:
        return OverloadedError(
            f"{counted(len(self), 'request')} {are(len(self))} queued, longer than"
            f" {self._deadline * 1e3:g} ms",
            hint="send it again after Retry-After, or start more scorers",
        )

    def _run(self) -> None:
        start = time.monotonic()  # the loop's own clock has a resolution of milliseconds
        self._waiting.popleft()()
        self._seconds += NEW_SHARE * (time.monotonic() - start - self._seconds)
        self._rest(STEPS)

    def _rest(self, turns: int) -> None:
        """Let the loop read new requests, and reject excess ones, before the next one runs.

        This happens even if no request waits: otherwise a burst of requests would be read one by
        one as they run, and the queue would never see how many there are.
        """
        if turns:
            self._loop.call_soon(self._rest, turns - 1)
        elif self._waiting:
            self._run()
        else:
            self._is_running = False


def _resolve(future: asyncio.Future[Any], work: Callable[[], Any]) -> None:
    if future.done():  # the client disconnected
        return
    try:
        future.set_result(work())
    except Exception as error:
        future.set_exception(error)
