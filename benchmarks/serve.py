"""The scorer over its socket, in an open loop: latency against rate.

    python benchmarks/serve.py http://127.0.0.1:8090 BODIES.jsonl --rates 50,100,200,400

Each line of the file is the body of a `POST /score`. Requests are sent at random times of a given
rate, whether or not earlier ones are answered, and latency counts from when a request was due.
The client shares the machine with the scorer: `client_late_ms` says how late it sent at p99, so a
figure with a large one is the machine's, not the scorer's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import uvloop


@dataclass
class Client:
    """A pool of connections that are reused."""

    host: str
    port: int
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    async def post(self, body: bytes) -> int:
        """Send a body, and return the status of the answer."""
        connection = self.idle.pop() if self.idle else None
        reader, writer = connection or await asyncio.open_connection(self.host, self.port)
        head = f"POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = answer.split(b"content-length: ")[1].split(b"\r\n")[0]
        await reader.readexactly(int(length))
        self.idle.append((reader, writer))
        return int(answer[9:12])


async def open_loop(client: Client, bodies: list[bytes], rate: float, seed: int) -> dict:
    """Send each body once, at random times.

    Args:
        client: Where to.
        bodies: Of the requests.
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
    answered = latency[statuses == 200] * 1e3
    shares = {f"p{at:g}_ms": round(float(np.percentile(answered, at)), 2)
              for at in (50, 95, 99, 99.9) if len(answered)}  # fmt: skip
    return {
        "offered": rate,
        "answered_per_second": round(len(answered) / (time.perf_counter() - start), 1),
        "refused": int((statuses == 503).sum()),
        "other": int(((statuses != 200) & (statuses != 503)).sum()),
        **shares,
        "client_late_ms": round(float(np.percentile(late, 99)) * 1e3, 2),
    }


async def main() -> None:
    """Measure each rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("bodies", type=Path)
    parser.add_argument("--rates", default="50,100,200,400")
    parser.add_argument("--seconds", type=float, default=10)
    asked = parser.parse_args()
    bodies = asked.bodies.read_bytes().splitlines()
    address = urlsplit(asked.address)
    client = Client(address.hostname or "127.0.0.1", address.port or 80)
    await open_loop(client, bodies[:100], 50, 0)  # warm-up
    for rate in map(float, asked.rates.split(",")):
        count = max(int(rate * asked.seconds), 10)
        chosen = [bodies[at % len(bodies)] for at in range(count)]
        print(json.dumps(await open_loop(client, chosen, rate, 1)), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
