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
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._post(body)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError):
            return 0

    async def _post(self, body: bytes) -> int:
        connection = self.idle.pop() if self.idle else None
        reader, writer = connection or await asyncio.open_connection(self.host, self.port)
        try:
            head = f"POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = answer.partition(b"content-length: ")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
        except BaseException:
            writer.close()
            raise
        self.idle.append((reader, writer))
        return int(answer[9:12])

    def close(self) -> None:
        """Close all connections."""
        for _, writer in self.idle:
            writer.close()
        self.idle.clear()


async def open_loop(
    client: Client, bodies: Sequence[bytes], rate: float, seed: int
) -> dict[str, Any]:
    """Send each body once, at random times.

    Args:
        client: Where to.
        bodies: JSON of the requests.
        rate: Requests per second.
        seed: Of their times.

    Returns:
        `offered_per_second`, `answered_per_second`, `requests`, `refused` (503), `failed` (any
        other answer, or none), `p50_ms` … `p99.9_ms` of the answered ones, `client_late_ms`.
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
    answered = latency[statuses == 200] * 1e3
    shares = {f"p{at:g}_ms": round(float(np.percentile(answered, at)), 3)
              for at in SHARES if len(answered)}  # fmt: skip
    return {
        "offered_per_second": round(rate, 1),
        "answered_per_second": round(len(answered) / (time.perf_counter() - start), 1),
        "requests": len(due),
        "refused": int((statuses == 503).sum()),
        "failed": int(((statuses != 200) & (statuses != 503)).sum()),
        **shares,
        "client_late_ms": round(float(np.percentile(late, 99)) * 1e3, 3),
    }
