"""The scorer over its socket, in an open loop: latency against rate.

    python benchmarks/serve.py http://127.0.0.1:8090 BODIES.jsonl --rates 50,100,200,400

Each line of the file is the body of a `POST /score`. Requests are sent at random times of a given
rate, whether or not earlier ones are answered, and latency counts from when a request was due.
The client shares the machine with the scorer: `client_late_ms` says how late it sent at p99, so a
figure with a large one is the machine's, not the scorer's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from urllib.parse import urlsplit

import uvloop
from nightbid.serving.open_loop import Client, open_loop


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
