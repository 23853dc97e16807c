"""Load test of the scorer itself: the same code and processes as in production, over a socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import psutil
import pyarrow as pa

from nightbid.config.serve import Serve
from nightbid.counts import counted
from nightbid.errors import CorruptDataError, StageError
from nightbid.processes import how_it_ended, last_line
from nightbid.scorer.follow import OneBundle
from nightbid.serving.bundle import read_columns
from nightbid.serving.json_values import to_json
from nightbid.serving.open_loop import ScorerClient, open_loop

SIZES = (1, 10, 100, 500)
"""Numbers of candidates per request for which latency is measured, at a quarter of the rate."""
FACTORS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Rates to try, as multiples of the requested one, until the objective is missed."""
WARM_UP = 50
FEWEST = 10
"""Minimum number of requests at any rate."""
STOP_SECONDS = 10
MOST_REFUSED = 0.001
"""Maximum share of rejected requests with which the objective is still met."""
Bodies = Callable[[int, int], list[bytes]]
"""Function from (candidates per request, number of requests) to requests as JSON."""


@dataclass(frozen=True)
class RunningScorer:
    """A running scorer."""

    port: int
    program: subprocess.Popen[str]
    processes: tuple[psutil.Process, ...]
    """The program and the processes that it has started."""
    start_seconds: float

    @property
    def memory_mb(self) -> float:
        """Private memory of its processes, in MB."""
        return sum(process.memory_full_info().uss for process in self.processes) / 1e6

    def check(self) -> None:
        """Check that all processes live, since the figures of a restarted scorer mean nothing.

        Raises:
            StageError: A process has ended.
        """
        code = self.program.poll()
        if code is None and all(map(_is_alive, self.processes)):
            return
        how = "died and was started again, often because memory ran out"
        raise StageError(
            f"a process of the tested scorer {how}" if code is None
            else f"the tested scorer {how_it_ended(code)}",
            where="load_test",
            hint="free memory (free -g) or set serve.processes lower, then run it again",
        )  # fmt: skip


@contextlib.contextmanager
def running(bundle: Path, pipeline: str, processes: int) -> Iterator[RunningScorer]:
    """Start a scorer of one bundle on loopback, and stop it at the end.

    Raises:
        CorruptDataError: The scorer does not start.
        StageError: It was killed while it started.
    """
    start = time.perf_counter()
    command = [sys.executable, "-m", "nightbid.scorer", str(bundle), pipeline, str(processes)]
    with (
        tempfile.NamedTemporaryFile("w+") as log,
        subprocess.Popen(  # noqa: S603, our own module
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            if not port:
                code = process.wait(STOP_SECONDS)
                if code < 0:
                    raise StageError(
                        f"the scorer {how_it_ended(code)}",
                        where=str(bundle),
                        hint="free memory (free -g), then run it again",
                    )
                raise CorruptDataError(
                    f"the scorer does not start: {last_line(Path(log.name))}",
                    where=str(bundle),
                    hint="run `nightbid serve PIPELINE` by hand to see more",
                )
            seconds = time.perf_counter() - start
            whole = psutil.Process(process.pid)
            whole_tree = (whole, *whole.children(recursive=True))
            yield RunningScorer(int(port), process, whole_tree, seconds)
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                whole = psutil.Process(process.pid)
                started = [*whole.children(recursive=True), whole]
                process.terminate()
                _, alive = psutil.wait_procs(started, STOP_SECONDS)
                for survivor in alive:
                    survivor.kill()


def measure(
    bundle: Path, pipeline: str, serve: Serve, bodies: Bodies, say: Callable[[str], None]
) -> dict[str, Any]:
    """Measure the scorer of one bundle.

    Args:
        bundle: Folder of the exported bundle.
        pipeline: Name of the bundle's pipeline.
        serve: Serving objective.
        bodies: Function that makes requests.
        say: Callback that receives what is being measured.

    Returns:
        `requests_per_second`, the highest tried rate that meets the objective (0: none),
        `curve` of these rates, `candidates` (latency by candidates per request), `memory_mb`,
        `start_seconds`, `load_seconds` (from noticing a promotion to serving it), `processes`.
    """
    processes = serve.processes or len(os.sched_getaffinity(0))
    load_seconds = _time_to_load(bundle, pipeline)
    say("starting the scorer")
    with running(bundle, pipeline, processes) as scorer:
        try:
            figures = asyncio.run(_loops(scorer, serve, bodies, say))
        finally:
            scorer.check()
        memory = scorer.memory_mb
    return {
        **figures,
        "memory_mb": round(memory, 1),
        "start_seconds": round(scorer.start_seconds, 3),
        "load_seconds": round(load_seconds, 3),
        "processes": processes,
    }


async def _loops(
    scorer: RunningScorer, serve: Serve, bodies: Bodies, say: Callable[[str], None]
) -> dict[str, Any]:
    client = ScorerClient("127.0.0.1", scorer.port)
    requested = serve.requests_per_second

    async def at(rate: float, candidates: int) -> dict[str, Any]:
        say(f"{rate:,.0f} requests/s of {counted(candidates, 'candidate')}")
        count = max(int(rate * serve.seconds), FEWEST)
        return await open_loop(client, bodies(candidates, count), rate, seed=candidates)

    try:
        await open_loop(client, bodies(serve.candidates, WARM_UP), max(requested / 4, 1), seed=0)
        sizes = []
        for size in SIZES:
            sizes.append({"candidates": size, **await at(requested / 4, size)})
        curve, held = [], 0.0
        for factor in FACTORS:
            point = await at(requested * factor, serve.candidates)
            curve.append(point)
            if not holds(point, serve.p99_ms):
                break
            held = point["offered_per_second"]
    finally:
        client.close()
    return {"requests_per_second": held, "curve": curve, "candidates": sizes}


def holds(point: dict[str, Any], p99_ms: float) -> bool:
    """Return whether a measured rate meets the objective."""
    refused = point["refused"] / point["requests"]
    return bool(
        not point["failed"] and refused <= MOST_REFUSED and point.get("p99_ms", 1e9) <= p99_ms
    )


def make_bodies(requests: Sequence[pa.Table], of_item: Sequence[str], bundle: Path) -> Bodies:
    """Encode requests with one context and many candidates as JSON.

    Args:
        requests: Rows of the logs, one table per request.
        of_item: Columns that belong to the candidate; the others are the context.
        bundle: Folder of the bundle; determines the columns that are sent.
    """
    names = read_columns(bundle).names
    own = [name for name in of_item if name in names]
    shared = [name for name in names if name not in own]
    parts = []
    for request in requests:
        context = orjson.loads(to_json(request.select(shared).slice(0, 1)))["rows"]
        rows = orjson.loads(to_json(request.select(own)))["rows"]
        parts.append((context[0] if context else {}, rows))

    def bodies(candidates: int, count: int) -> list[bytes]:
        encoded = []
        for at in range(count):
            context, rows = parts[at % len(parts)]
            again = -(-candidates // len(rows))
            body = {"context": context, "rows": (rows * again)[:candidates]}
            encoded.append(orjson.dumps(body))
        return encoded

    return bodies


def _is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE and process.is_running()
    return False


def _time_to_load(bundle: Path, pipeline: str) -> float:
    start = time.perf_counter()
    OneBundle(bundle, pipeline).look()
    return time.perf_counter() - start
