"""The scorer over its socket, in an open loop: against its peers, while promoting, and for long.

    python benchmarks/serve.py rates http://127.0.0.1:8090 BUNDLE ROWS.parquet
    python benchmarks/serve.py peers BUNDLE ROWS.parquet --bentoml VENV/bin/python
    python benchmarks/serve.py swap BUNDLE OTHER ROWS.parquet --rate 200
    python benchmarks/serve.py soak BUNDLE OTHER ROWS.parquet --minutes 10

BUNDLE and OTHER are folders that an export wrote, ROWS a Parquet file of sampled rows (`sample/…/
split=evaluate/dt=…/part-00000.parquet`) of the same pipeline. Requests of `--candidates` rows are
sent at random times of a given rate, whether or not earlier ones are answered, and latency counts
from when a request was due. Client and servers share the machine: `client_late_ms` says how late
requests were sent at p99, `client_cpu_ms` what the client takes per request, and `load` what else
the machine did; quote no figure without it. On a machine that others use, `chrt -f 10 python …`
gives client and scorer precedence.

`peers` runs one after the other: this scorer; FastAPI with the transforms of training and the
SavedModel; BentoML with ONNX Runtime and the bundle's lookup, in an environment of its own
(`uv pip install bentoml onnxruntime numpy pyarrow msgspec orjson`); and ONNX Runtime alone, in
process, on inputs that were looked up before.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import orjson
import psutil
import pyarrow.parquet as pq
from nightbid.night.champion import ChampionPointer
from nightbid.night.manifest import Manifest
from nightbid.scorer.follow import OneBundle
from nightbid.serving.bundle import Bundle
from nightbid.serving.load_test import item_columns, make_requests
from nightbid.serving.open_loop import Client, open_loop, send
from nightbid.serving.socket_test import make_bodies, running
from nightbid.storage.workspace import Workspace

HERE = Path(__file__).parent
PEERS = HERE / "serve_peers"
REQUESTS = 600
"""Different requests; they repeat, as users do."""
BAD = (b"{", b'{"rows": 5}', b'{"rows": [{}]}', b"[" * 50_000, b'{"rows": [{"a": 1e999}]}')
SERVE = (
    "import sys; from nightbid.scorer.server import *; taken = listen('127.0.0.1', 0); "
    "serve(ScorerSettings(workspace=sys.argv[1], pipeline='bench', poll_seconds=0.2), taken, "
    "processes=int(sys.argv[2]), started=lambda: print(taken.getsockname()[1], flush=True))"
)


async def main() -> None:
    asked = _arguments()
    load = os.getloadavg()[0]
    say(mode=asked.mode, load=round(load, 2), cores=len(os.sched_getaffinity(0)))
    await asked.run(asked)


async def rates(asked: Any) -> None:
    address = urlsplit(asked.address)
    client = Client(address.hostname or "127.0.0.1", address.port or 80)
    await _curve(client, _bodies(asked), asked, "scorer", None)


async def peers(asked: Any) -> None:
    bodies = _bodies(asked)
    say(server="onnxruntime alone", cpu_ms=_bare(asked, bodies))
    with running(asked.bundle, "bench", asked.processes) as scorer:
        await _curve(Client("127.0.0.1", scorer.port), bodies, asked, "nightbid", scorer.process)
    environment = {**os.environ, "BUNDLE": str(asked.bundle.absolute()),
                   "PROCESSES": str(asked.processes), "PYTHONPATH": str(HERE.parent / "include"),
                   "BENTOML_DO_NOT_TRACK": "true", "TF_CPP_MIN_LOG_LEVEL": "3"}  # fmt: skip
    servers = {
        "fastapi + savedmodel": [sys.executable, "-m", "uvicorn", "fastapi_:app", "--port", "{}",
                                 "--workers", str(asked.processes), "--log-level", "error"],
    }  # fmt: skip
    if asked.bentoml:
        servers["bentoml + onnx"] = [
            str(asked.bentoml), "-m", "bentoml", "serve", "bentoml_:Scorer", "--port", "{}",
        ]  # fmt: skip
    for name, command in servers.items():
        with _server(command, environment, bodies[0]) as (port, process):
            await _curve(Client("127.0.0.1", port), bodies, asked, name, process)


async def swap(asked: Any) -> None:
    bodies = _bodies(asked)
    with _following(asked) as (port, process, promote):
        client = Client("127.0.0.1", port)
        await open_loop(client, bodies[:200], 50, 0)
        count = int(asked.rate * asked.seconds)
        steady = await send(client, _cycle(bodies, count), asked.rate, 1)
        before = _memory(process)
        at = asked.seconds / 3

        most = before

        async def later() -> float:
            nonlocal most
            await asyncio.sleep(at)
            promote(1)
            begun = time.perf_counter()
            while True:
                _, answer = await client.get("/ready")
                if orjson.loads(answer)["champion"]["number"] == 2:
                    return time.perf_counter() - begun
                await asyncio.sleep(0.1)
                most = max(most, _memory(process))

        swapped, sent = await asyncio.gather(
            later(), send(client, _cycle(bodies, count), asked.rate, 2)
        )
        ended = at + swapped
        during = (sent.due >= at) & (sent.due <= ended)
        after = np.flatnonzero(sent.due > ended)[:1000]
        p99 = functools.partial(_p99, sent)
        say(
            server="nightbid", rate=asked.rate, swap_seconds=round(swapped, 3),
            p99_ms={"steady": _p99(steady, ...), "during": p99(during), "after": p99(after)},
            not_answered=int((sent.statuses != 200).sum()),
            memory_mb={"before": before, "during": most, "after": _memory(process)},
        )  # fmt: skip


async def soak(asked: Any) -> None:
    """Promotions, rollbacks, bad requests and bursts; every answer is compared."""
    bodies = _bodies(asked)[:100]
    expected = [_expected(folder, bodies) for folder in (asked.bundle, asked.other)]
    draw = random.Random(1)
    counts: dict[str, int] = {}
    wrong = 0
    with _following(asked) as (port, process, promote):
        client = Client("127.0.0.1", port)
        await open_loop(client, bodies, 50, 0)
        memory, ends = [_memory(process)], time.monotonic() + 60 * asked.minutes
        changed = measured = time.monotonic()
        serving = 0

        async def one(at: int) -> None:
            nonlocal wrong
            status, answer = await client.ask(bodies[at])
            counts[str(status)] = counts.get(str(status), 0) + 1
            if status == 200:
                found = orjson.loads(answer)
                of = (found["champion"]["number"] - 1) % 2
                wrong += found["probabilities"] != expected[of][at]

        async def bad() -> None:
            status, _ = await client.ask(draw.choice(BAD))
            counts[f"bad {status}"] = counts.get(f"bad {status}", 0) + 1

        tasks: set[asyncio.Task[None]] = set()
        while time.monotonic() < ends:
            burst = 100 if draw.random() < 0.002 else 1
            for _ in range(burst):
                tasks.add(asyncio.create_task(one(draw.randrange(len(bodies)))))
            if draw.random() < 0.05:
                tasks.add(asyncio.create_task(bad()))
            tasks = {each for each in tasks if not each.done()}
            if time.monotonic() - changed > 5:
                serving, changed = 1 - serving, time.monotonic()
                promote(serving)
            if time.monotonic() - measured > 30:
                memory.append(_memory(process))
                measured = time.monotonic()
            await asyncio.sleep(draw.expovariate(asked.rate))
        await asyncio.gather(*tasks)
        memory.append(_memory(process))
    say(server="nightbid", answers=counts, wrong_scores=wrong, memory_mb=memory)


def say(**found: Any) -> None:
    print(json.dumps(found), flush=True)


async def _curve(
    client: Client, bodies: list[bytes], asked: Any, name: str, process: psutil.Process | None
) -> None:
    await open_loop(client, bodies[:200], 50, 0)  # warm-up
    for rate in map(float, asked.rates.split(",")):
        count = max(int(rate * asked.seconds), 10)
        before, ours = _cpu(process), time.process_time()
        point = await open_loop(client, _cycle(bodies, count), rate, 1)
        used = {"client_cpu_ms": round((time.process_time() - ours) / count * 1e3, 3)}
        if process:
            used["cpu_ms"] = round((_cpu(process) - before) / count * 1e3, 3)
        say(server=name, **point, **used)
        if point["failed"] or point["refused"] > count / 10 or point.get("p99_ms", 1e9) > 1000:
            break
    client.close()


def _bare(asked: Any, bodies: list[bytes]) -> float:
    """CPU of ONNX Runtime for a request, in ms."""
    served = OneBundle(asked.bundle, "bench").look().served
    bundle = Bundle.load(asked.bundle)
    assert served is not None
    from nightbid.scorer import rows

    feeds = []
    for body in bodies[:200]:
        read = rows.read(orjson.loads(body), served.columns)
        feeds.append(bundle.look_up(read.table(served.columns)))
    for feed in feeds:
        bundle.run(feed)
    begun = time.thread_time()
    for feed in feeds:
        bundle.run(feed)
    return round((time.thread_time() - begun) / len(feeds) * 1e3, 3)


def _expected(folder: Path, bodies: list[bytes]) -> list[list[float]]:
    served = OneBundle(folder, "bench").look().served
    assert served is not None
    return [served.answer(body).tolist() for body in bodies]


@contextlib.contextmanager
def _following(asked: Any) -> Iterator[tuple[int, psutil.Process, Any]]:
    """A scorer that follows a champion, and a function that promotes one of both bundles."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(folder)
        pointer = ChampionPointer(workspace, "bench")
        for at, bundle in enumerate((asked.bundle, asked.other)):
            shutil.copytree(bundle, Path(folder) / f"bundle-{at}")

        def promote(at: int) -> None:
            manifest = (Path(folder) / f"bundle-{at}" / "manifest.json").read_text()
            digest = Manifest.model_validate_json(manifest).digest
            pointer.promote(
                run_id=f"bundle-{at}", night=_night(Path(folder) / f"bundle-{at}"),
                bundle_uri=f"bundle-{at}", bundle_digest=digest, reason="benchmark",
            )  # fmt: skip

        promote(0)
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, folder, str(asked.processes)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline()), psutil.Process(process.pid), promote
        finally:
            process.terminate()
            process.wait(60)


def _night(bundle: Path) -> Any:
    import datetime as dt

    return dt.date.fromisoformat(json.loads((bundle / "bundle.json").read_text())["night"])


@contextlib.contextmanager
def _server(
    command: list[str], environment: dict[str, str], body: bytes
) -> Iterator[tuple[int, psutil.Process]]:
    """Another server on a free port, once it answers a request."""
    from nightbid.scorer.server import listen

    port = (taken := listen("127.0.0.1", 0)).getsockname()[1]
    taken.close()
    process = subprocess.Popen(
        [each.replace("{}", str(port)) for each in command],
        cwd=PEERS, env=environment, stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    whole = psutil.Process(process.pid)
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(httpx.HTTPError):
                found = httpx.post(f"http://127.0.0.1:{port}/score", content=body, timeout=60,
                                   headers={"content-type": "application/json"})  # fmt: skip
                found.raise_for_status()
                break
            assert process.poll() is None, f"{command} ended"
            assert time.monotonic() < deadline, f"{command} does not answer"
            time.sleep(0.5)
        yield port, whole
    finally:
        started = [*whole.children(recursive=True), whole]
        process.terminate()
        for each in psutil.wait_procs(started, 20)[1]:
            each.kill()


def _cpu(process: psutil.Process | None) -> float:
    """Seconds of CPU of a server so far, its workers included."""
    if process is None:
        return 0.0
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def _memory(process: psutil.Process) -> float:
    """Memory of a server's own, in MB; asking for it does not stop the server, as USS does."""
    found = [each.memory_info() for each in (process, *process.children(recursive=True))]
    return round(sum(each.rss - each.shared for each in found) / 1e6, 1)


def _p99(sent: Any, chosen: Any) -> float | None:
    latency = sent.latency[chosen]
    return round(float(np.percentile(latency, 99)) * 1e3, 2) if len(latency) else None


def _cycle(bodies: list[bytes], count: int) -> list[bytes]:
    return [bodies[at % len(bodies)] for at in range(count)]


def _bodies(asked: Any) -> list[bytes]:
    rows = pq.read_table(asked.rows, partitioning=None).slice(0, 60_000)
    requests = make_requests(rows, asked.item, REQUESTS, 1)
    made = make_bodies(requests, item_columns(rows, asked.item), asked.bundle)
    return made(asked.candidates, REQUESTS)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    modes = parser.add_subparsers(dest="mode", required=True)
    for mode in (rates, peers, swap, soak):
        one = modes.add_parser(mode.__name__)
        one.set_defaults(run=mode)
        if mode is rates:
            one.add_argument("address")
        one.add_argument("bundle", type=Path)
        if mode in (swap, soak):
            one.add_argument("other", type=Path)
        one.add_argument("rows", type=Path)
        one.add_argument("--item", default="ad_id", help="column of the candidate")
        one.add_argument("--candidates", type=int, default=100)
        one.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
        one.add_argument("--rates", default="50,100,200,400")
        one.add_argument("--rate", type=float, default=200)
        one.add_argument("--seconds", type=float, default=10)
        one.add_argument("--minutes", type=float, default=10)
        one.add_argument("--bentoml", type=Path, help="Python of an environment with BentoML")
    return parser.parse_args()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main())
