"""Requests at random times of a given rate, whether or not earlier ones are answered.

Latency counts from when a request was due, so that waiting is not hidden. The client shares the
machine with the scorer: `client_late_ms` says how late it sent at p99, so a figure with a large
one is the machine's, not the scorer's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

SHARES = (50, 95, 99, 99.9)
ANSWER_SECONDS = 30
"""A request without an answer for so long has failed."""
_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Client:
    """A pool of connections that are used again.

    Args:
        host: Address of the scorer.
        port: The same.
    """

    host: str
    port: int
    idle: list[_Connection] = field(default_factory=list)

    async def post(self, body: bytes) -> int:
        """Send a body to `/score`; returns the status of the answer, 0 where none came."""
        return (await self.ask(body))[0]

    async def ask(self, body: bytes) -> tuple[int, bytes]:
        """Send a body to `/score`; status and body of the answer, 0 and nothing where none came."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._ask(body)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError):
            return 0, b""

    async def _ask(self, body: bytes) -> tuple[int, bytes]:
        reader, writer = self._unused() or await asyncio.open_connection(self.host, self.port)
        try:
            head = (
                "POST /score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = answer.partition(b"content-length: ")[2].partition(b"\r\n")[0]
            found = await reader.readexactly(int(length))
        except BaseException:
            writer.close()
            raise
        self.idle.append((reader, writer))
        return int(answer[9:12]), found

    def _unused(self) -> _Connection | None:
        """Take a connection that the scorer has not closed meanwhile, as it does with idle ones."""
        while self.idle:
            reader, writer = self.idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return None

    def close(self) -> None:
        """Close all connections."""
        for _, writer in self.idle:
            writer.close()
        self.idle.clear()


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
