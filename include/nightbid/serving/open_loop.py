"""Requests at random times of a given rate, whether or not earlier ones are answered.

Latency counts from when a request was due, so that waiting is not hidden. The client shares the
machine with the scorer: `client_late_ms` says how late it sent at p99, so a figure with a large
one is the machine's, not the scorer's.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt

SHARES = (50, 95, 99, 99.9)
ANSWER_SECONDS = 30
"""A request without an answer for so long has failed."""
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
CONNECTIONS = 32
"""That requests take in turn, as those of many callers do; more are opened where all are busy."""


@dataclass
class Client:
    """A pool of connections that are used again, the longest unused one first.

    Args:
        host: Address of the scorer.
        port: The same.
    """

    host: str
    port: int
    idle: deque[_Connection] = field(default_factory=deque)

    async def connect(self, count: int = CONNECTIONS) -> None:
        """Open connections before they are needed."""
        while len(self.idle) < count:
            self.idle.append(await self._open())

    async def post(self, body: bytes) -> int:
        """Send a body to `/score`; returns the status of the answer, 0 where none came."""
        return (await self.ask(body))[0]

    async def ask(self, body: bytes) -> tuple[int, bytes]:
        """Send a body to `/score`; status and body of the answer, 0 and nothing where none came."""
        head = (
            "POST /score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        return await self._ask(head.encode() + body)

    async def get(self, path: str) -> tuple[int, bytes]:
        """Ask for an address of the scorer; as `ask`."""
        return await self._ask(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())

    async def _ask(self, request: bytes) -> tuple[int, bytes]:
        try:
            connection = self._unused() or await self._open()
            found = await connection.ask(request)
        except (OSError, ValueError):
            return 0, b""
        if not connection.is_closing:
            self.idle.append(connection)
        return found

    async def _open(self) -> _Connection:
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(_Connection, self.host, self.port))[1]

    def _unused(self) -> _Connection | None:
        """Take a connection that the scorer has not closed meanwhile, as it does with idle ones."""
        while self.idle:
            connection = self.idle.popleft()
            if not connection.is_closing:
                return connection
        return None

    def close(self) -> None:
        """Close all connections."""
        for each in self.idle:
            each.close()
        self.idle.clear()


class _Connection(asyncio.Protocol):
    """One request at a time, with as little work as possible: the scorer is on the same cores."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._read = b""
        self.is_closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep it."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the request that waits."""
        self.is_closing = True
        self._fail("the connection was closed")

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; status and body of its answer.

        Raises:
            OSError: None came.
        """
        self._answer = self._loop.create_future()
        self._transport.write(request)
        late = self._loop.call_later(ANSWER_SECONDS, self._fail, "no answer came in time")
        try:
            return await self._answer
        except BaseException:
            self.close()
            raise
        finally:
            late.cancel()
            self._answer = None

    def data_received(self, data: bytes) -> None:
        """Read an answer."""
        self._read += data
        head, ended, body = self._read.partition(b"\r\n\r\n")
        if not ended:
            return
        found = LENGTH.search(head)
        if found is None:
            self._fail("an answer without its length")
        elif len(body) >= int(found[1]):
            self._read = b""
            if self._answer is not None and not self._answer.done():
                self._answer.set_result((int(head[9:12]), body))

    def close(self) -> None:
        """Close."""
        self.is_closing = True
        self._transport.close()

    def _fail(self, why: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(why))


@dataclass(frozen=True)
class Sent:
    """Requests of an open loop, in the order in which they were due."""

    due: npt.NDArray[np.float64]
    """[requests]: seconds since the start."""
    late: npt.NDArray[np.float64]
    """[requests]: seconds from when a request was due to when it was sent."""
    latency: npt.NDArray[np.float64]
    """[requests]: seconds from when it was due to its answer."""
    statuses: npt.NDArray[np.int64]
    """[requests]: of the answers; 0: none."""
    seconds: float
    """Until the last answer."""

    def summary(self, rate: float) -> dict[str, Any]:
        """Sum up, as `open_loop` returns it."""
        answered = self.latency[self.statuses == 200] * 1e3
        shares = {f"p{at:g}_ms": round(float(np.percentile(answered, at)), 3)
                  for at in SHARES if len(answered)}  # fmt: skip
        return {
            "offered_per_second": round(rate, 1),
            "answered_per_second": round(len(answered) / self.seconds, 1),
            "requests": len(self.due),
            "refused": int((self.statuses == 503).sum()),
            "failed": int(((self.statuses != 200) & (self.statuses != 503)).sum()),
            **shares,
            "client_late_ms": round(float(np.percentile(self.late, 99)) * 1e3, 3),
        }


async def send(client: Client, bodies: Sequence[bytes], rate: float, seed: int) -> Sent:
    """Send each body once, at random times.

    Args:
        client: Where to.
        bodies: JSON of the requests.
        rate: Requests per second.
        seed: Of their times.
    """
    due = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, len(bodies)))
    latency, late = np.zeros(len(due)), np.zeros(len(due))
    statuses = np.zeros(len(due), np.int64)
    await client.connect()
    start = time.perf_counter()

    async def one(at: int) -> None:
        late[at] = time.perf_counter() - start - due[at]
        statuses[at] = await client.post(bodies[at])
        latency[at] = time.perf_counter() - start - due[at]

    tasks = []
    for at, when in enumerate(due):
        wait = start + when - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(one(at)))
    await asyncio.gather(*tasks)
    return Sent(due, late, latency, statuses, time.perf_counter() - start)


async def open_loop(
    client: Client, bodies: Sequence[bytes], rate: float, seed: int
) -> dict[str, Any]:
    """Send each body once, at random times, and sum up.

    Args:
        client: Where to.
        bodies: JSON of the requests.
        rate: Requests per second.
        seed: Of their times.

    Returns:
        `offered_per_second`, `answered_per_second`, `requests`, `refused` (503), `failed` (any
        other answer, or none), `p50_ms` … `p99.9_ms` of the answered ones, `client_late_ms`.
    """
    return (await send(client, bodies, rate, seed)).summary(rate)
