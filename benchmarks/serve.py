"""Open-loop load on the scorer's socket: rates, peers, promotions and long runs.

    python benchmarks/serve.py rates http://127.0.0.1:8090 BUNDLE ROWS.parquet
    python benchmarks/serve.py peers BUNDLE ROWS.parquet --bentoml VENV/bin/python
    python benchmarks/serve.py swap BUNDLE OTHER ROWS.parquet --rate 200
    python benchmarks/serve.py soak BUNDLE OTHER ROWS.parquet --minutes 10

An export wrote the folders BUNDLE and OTHER. ROWS is a Parquet file of sampled rows (`sample/…/
split=evaluate/dt=…/part-00000.parquet`) of the same pipeline. The client sends requests of
`--candidates` rows at random times of a given rate, without waiting for earlier answers, and
measures latency from the time when a request was due. Client and servers share the machine:
`client_late_ms` is the delay of sending at p99, `client_cpu_ms` the client's CPU time per request,
and `load` the load of the machine; quote no figure without it. On a shared machine,
`chrt -f 10 python …` gives client and scorer precedence.

`peers` runs these servers in sequence: this scorer; FastAPI with the transforms of training and the
SavedModel; BentoML with ONNX Runtime and the bundle's lookup, in its own environment
(`uv pip install bentoml onnxruntime numpy pyarrow msgspec orjson`); and ONNX Runtime alone, in this
process, on precomputed inputs.
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
from nightbid.serving.open_loop import ScorerClient, open_loop, send
from nightbid.serving.socket_test import make_bodies, running
from nightbid.storage.workspace import Workspace

HERE = Path(__file__).parent
PEERS = HERE / "serve_peers"
REQUESTS = 600
"""Number of different requests, which repeat, as users do."""
BAD = (b"{", b'{"rows": 5}', b'{"rows": [{}]}', b"[" * 50_000, b'{"rows": [{"a": 1e999}]}')
SERVE = (
    "import sys; from nightbid.scorer.server import *; taken = listen('127.0.0.1', 0); "
    "serve(ScorerSettings(workspace=sys.argv[1], pipeline='bench', poll_seconds=0.2), taken, "
    "processes=int(sys.argv[2]), started=lambda: print(taken.getsockname()[1], flush=True))"
)


async def main() -> None:
    options = _arguments()
    load = os.getloadavg()[0]
    say(mode=options.mode, load=round(load, 2), cores=len(os.sched_getaffinity(0)))
    await options.run(options)


async def rates(asked: Any) -> None:
    address = urlsplit(asked.address)
    client = ScorerClient(address.hostname or "127.0.0.1", address.port or 80)
    await _curve(client, _bodies(asked), asked, "scorer", None)


async def peers(asked: Any) -> None:
    bodies = _bodies(asked)
    say(server="onnxruntime alone", cpu_ms=_bare(asked, bodies))
    with running(asked.bundle, "bench", asked.processes) as scorer:
        await _curve(
            ScorerClient("127.0.0.1", scorer.port), bodies, asked, "nightbid", scorer.processes[0]
        )
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
            await _curve(ScorerClient("127.0.0.1", port), bodies, asked, name, process)


async def swap(asked: Any) -> None:
    bodies = _bodies(asked)
    with _following(asked) as (port, process, promote):
        client = ScorerClient("127.0.0.1", port)
        await open_loop(client, bodies[:200], 50, 0)
        count = int(asked.rate * asked.seconds)
        steady = await send(client, _cycle(bodies, count), asked.rate, 1)
        before = _memory(process)
        swap_at = asked.seconds / 3

        most = before

        async def later() -> float:
            nonlocal most
            await asyncio.sleep(swap_at)
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
        swap_end = swap_at + swapped
        during = (sent.due >= swap_at) & (sent.due <= swap_end)
        after = np.flatnonzero(sent.due > swap_end)[:1000]
        p99 = functools.partial(_p99, sent)
        say(
            server="nightbid", rate=asked.rate, swap_seconds=round(swapped, 3),
            p99_ms={"steady": _p99(steady, ...), "during": p99(during), "after": p99(after)},
            not_answered=int((sent.statuses != 200).sum()),
            memory_mb={"before": before, "during": most, "after": _memory(process)},
        )  # fmt: skip


async def soak(asked: Any) -> None:
    """Run promotions, rollbacks, bad requests and bursts; check every answer."""
    bodies = _bodies(asked)[:100]
    expected = [_expected(folder, bodies) for folder in (asked.bundle, asked.other)]
    draw = random.Random(1)
    counts: dict[str, int] = {}
    wrong = 0
    with _following(asked) as (port, process, promote):
        client = ScorerClient("127.0.0.1", port)
        await open_loop(client, bodies, 50, 0)
        memory, ends = [_memory(process)], time.monotonic() + 60 * asked.minutes
        changed = measured = time.monotonic()
        serving = 0

        async def one(at: int) -> None:
            nonlocal wrong
            status, answer = await client.ask(bodies[at])
            counts[str(status)] = counts.get(str(status), 0) + 1
            if status == 200:
                reply = orjson.loads(answer)
                bundle_number = (reply["champion"]["number"] - 1) % 2
                wrong += reply["probabilities"] != expected[bundle_number][at]

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
            tasks = {task for task in tasks if not task.done()}
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
    client: ScorerClient,
    bodies: list[bytes],
    asked: Any,
    name: str,
    process: psutil.Process | None,
) -> None:
    await open_loop(client, bodies[:200], 50, 0)  # warm-up
    for rate in map(float, asked.rates.split(",")):
        count = max(int(rate * asked.seconds), 10)
        before, client_cpu = _cpu(process), time.process_time()
        point = await open_loop(client, _cycle(bodies, count), rate, 1)
        cpu_figures = {"client_cpu_ms": round((time.process_time() - client_cpu) / count * 1e3, 3)}
        if process:
            cpu_figures["cpu_ms"] = round((_cpu(process) - before) / count * 1e3, 3)
        say(server=name, **point, **cpu_figures)
        if point["failed"] or point["refused"] > count / 10 or point.get("p99_ms", 1e9) > 1000:
            break
    client.close()


def _bare(asked: Any, bodies: list[bytes]) -> float:
    """Return the CPU milliseconds of ONNX Runtime per request."""
    served = OneBundle(asked.bundle, "bench").look().served
    bundle = Bundle.load(asked.bundle)
    assert served is not None
    from nightbid.scorer import rows

    feeds = []
    for body in bodies[:200]:
        parsed = rows.read(orjson.loads(body), served.columns)
        feeds.append(bundle.look_up(parsed.table(served.columns)))
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
    """Start a scorer that follows a champion; yield it and a function that promotes a bundle."""
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
    """Start a peer server on a free port, and yield it once it answers a request."""
    from nightbid.scorer.server import listen

    port = (taken := listen("127.0.0.1", 0)).getsockname()[1]
    taken.close()
    process = subprocess.Popen(
        [argument.replace("{}", str(port)) for argument in command],
        cwd=PEERS, env=environment, stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    whole = psutil.Process(process.pid)
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(httpx.HTTPError):
                reply = httpx.post(f"http://127.0.0.1:{port}/score", content=body, timeout=60,
                                   headers={"content-type": "application/json"})  # fmt: skip
                reply.raise_for_status()
                break
            assert process.poll() is None, f"{command} ended"
            assert time.monotonic() < deadline, f"{command} does not answer"
            time.sleep(0.5)
        yield port, whole
    finally:
        started = [*whole.children(recursive=True), whole]
        process.terminate()
        for child in psutil.wait_procs(started, 20)[1]:
            child.kill()


def _cpu(process: psutil.Process | None) -> float:
    """Return the CPU seconds of a server so far, including its workers."""
    if process is None:
        return 0.0
    times = [member.cpu_times() for member in (process, *process.children(recursive=True))]
    return sum(cpu_time.user + cpu_time.system for cpu_time in times)


def _memory(process: psutil.Process) -> float:
    """Return the private memory of a server in MB, without pausing it, as reading USS would."""
    usages = [member.memory_info() for member in (process, *process.children(recursive=True))]
    return round(sum(usage.rss - usage.shared for usage in usages) / 1e6, 1)


def _p99(sent: Any, chosen: Any) -> float | None:
    latency = sent.latency[chosen]
    return round(float(np.percentile(latency, 99)) * 1e3, 2) if len(latency) else None


def _cycle(bodies: list[bytes], count: int) -> list[bytes]:
    return [bodies[number % len(bodies)] for number in range(count)]


def _bodies(asked: Any) -> list[bytes]:
    rows = pq.read_table(asked.rows, partitioning=None).slice(0, 60_000)
    requests = make_requests(rows, asked.item, REQUESTS, 1)
    bodies_of = make_bodies(requests, item_columns(rows, asked.item), asked.bundle)
    return bodies_of(asked.candidates, REQUESTS)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    modes = parser.add_subparsers(dest="mode", required=True)
    for mode in (rates, peers, swap, soak):
        subparser = modes.add_parser(mode.__name__)
        subparser.set_defaults(run=mode)
        if mode is rates:
            subparser.add_argument("address")
        subparser.add_argument("bundle", type=Path)
        if mode in (swap, soak):
            subparser.add_argument("other", type=Path)
        subparser.add_argument("rows", type=Path)
        subparser.add_argument("--item", default="ad_id", help="column of the candidate")
        subparser.add_argument("--candidates", type=int, default=100)
        subparser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
        subparser.add_argument("--rates", default="50,100,200,400")
        subparser.add_argument("--rate", type=float, default=200)
        subparser.add_argument("--seconds", type=float, default=10)
        subparser.add_argument("--minutes", type=float, default=10)
        subparser.add_argument("--bentoml", type=Path, help="Python of an environment with BentoML")
    return parser.parse_args()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main())
