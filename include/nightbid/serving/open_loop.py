"""Open-loop load: requests at random times of a given rate, without waiting for answers.

Latency is measured from the time at which a request was due, so it includes queueing. The client
shares the machine with the scorer: `client_late_ms` is the p99 delay of sending, and if it is
large, the figures describe the machine, not the scorer.
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
"""Seconds without a response after which a request has failed."""
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
CONNECTIONS = 32
"""Connections used in turn, as with many callers; more are opened if all are busy."""


@dataclass
class ScorerClient:
    """Client of one scorer, with reusable connections, least recently used first.

    Args:
        host: Host name or IP address of the scorer.
        port: Port of the scorer.
    """

    host: str
    port: int
    idle: deque[_Connection] = field(default_factory=deque)

    async def connect(self, count: int = CONNECTIONS) -> None:
        """Open connections in advance, up to `count` idle ones."""
        while len(self.idle) < count:
            self.idle.append(await self._open())

    async def post(self, body: bytes) -> int:
        """Send a body to `/score`; return the status of the response, 0 if there was none."""
        return (await self.ask(body))[0]

    async def ask(self, body: bytes) -> tuple[int, bytes]:
        """Send a body to `/score`; return status and body, or 0 and an empty body on failure."""
        head = (
            "POST /score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        return await self._ask(head.encode() + body)

    async def get(self, path: str) -> tuple[int, bytes]:
        """Send a GET request for a path; see `ask` for the result."""
        return await self._ask(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())

    async def _ask(self, request: bytes) -> tuple[int, bytes]:
        try:
            connection = self._unused() or await self._open()
            answer = await connection.ask(request)
        except (OSError, ValueError):
            return 0, b""
        if not connection.is_closing:
            self.idle.append(connection)
        return answer

    async def _open(self) -> _Connection:
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(_Connection, self.host, self.port))[1]

    def _unused(self) -> _Connection | None:
        """Return an idle connection that the scorer has not closed meanwhile, or None."""
        while self.idle:
            connection = self.idle.popleft()
            if not connection.is_closing:
                return connection
        return None

    def close(self) -> None:
        """Close all connections."""
        for connection in self.idle:
            connection.close()
        self.idle.clear()


class _Connection(asyncio.Protocol):
    """One connection, kept lightweight because it shares cores with the scorer."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._read = b""
        self.is_closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the pending request."""
        self.is_closing = True
        self._fail("the connection was closed")

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; return status and body of the response.

        Raises:
            OSError: No response arrived.
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
        """Parse a response."""
        self._read += data
        head, ended, body = self._read.partition(b"\r\n\r\n")
        if not ended:
            return
        match = LENGTH.search(head)
        if match is None:
            self._fail("an answer without its length")
        elif len(body) >= int(match[1]):
            self._read = b""
            if self._answer is not None and not self._answer.done():
                self._answer.set_result((int(head[9:12]), body))

    def close(self) -> None:
        """Close the connection."""
        self.is_closing = True
        self._transport.close()

    def _fail(self, why: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(why))


@dataclass(frozen=True)
class OpenLoopResults:
    """Results of an open loop, in the order in which requests were due."""

    due: npt.NDArray[np.float64]
    """[requests]: due time in seconds since the start."""
    late: npt.NDArray[np.float64]
    """[requests]: delay of sending in seconds after the due time."""
    latency: npt.NDArray[np.float64]
    """[requests]: seconds from the due time to the response."""
    statuses: npt.NDArray[np.int64]
    """[requests]: status of each response; 0 means no response."""
    seconds: float
    """Seconds until the last response."""

    def summary(self, rate: float) -> dict[str, Any]:
        """Summarize the results, as returned by `open_loop`."""
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


async def send(
    client: ScorerClient, bodies: Sequence[bytes], rate: float, seed: int
) -> OpenLoopResults:
    """Send each body once, at random times.

    Args:
        client: Client of the scorer.
        bodies: Requests as JSON.
        rate: Requests per second.
        seed: Seed of the random times.
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
    return OpenLoopResults(due, late, latency, statuses, time.perf_counter() - start)


async def open_loop(
    client: ScorerClient, bodies: Sequence[bytes], rate: float, seed: int
) -> dict[str, Any]:
    """Send each body once, at random times, and summarize the results.

    Args:
        client: Client of the scorer.
        bodies: Requests as JSON.
        rate: Requests per second.
        seed: Seed of the random times.

    Returns:
        `offered_per_second`, `answered_per_second`, `requests`, `refused` (503), `failed` (any
        other response, or none), `p50_ms` … `p99.9_ms` of answered requests, `client_late_ms`.
    """
    return (await send(client, bodies, rate, seed)).summary(rate)
