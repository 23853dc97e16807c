"""Load test: send the bundle requests with one user and many candidates each.

The first part runs in this process, on one core, and measures lookup and model. If the pipeline has
a `serve` block, the second part measures the scorer itself over its socket; see
`nightbid.serving.socket_test`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nightbid.counts import counted
from nightbid.errors import MissingDataError
from nightbid.night.manifest import RowCounts
from nightbid.night.task import Outcome, StageTask
from nightbid.schema import RESERVED, USER, split_files
from nightbid.serving.bundle import Bundle
from nightbid.serving.socket_test import make_bodies, measure

CANDIDATES = 100
WARM_UP = 30
ROUNDS = 3
"""Maximum number of rounds; the round least disturbed by other processes counts."""
QUIET = 0.05
"""Share of time taken by other processes below which a round is good enough."""
SHARES = (0.25, 0.5, 0.75, 0.9)
"""Offered rates, as shares of the closed loop's throughput."""
SENT = 600
"""Number of different requests that are sent over the socket."""
ROWS = 60_000
"""Maximum number of evaluate rows that requests are made from."""


@dataclass(frozen=True)
class RequestTimes:
    """Times of requests that were sent one after the other."""

    wall: npt.NDArray[np.float64]
    """[requests, 2]: wall-clock seconds of the lookup, and of the whole request."""
    own: npt.NDArray[np.float64]
    """[requests, 2]: the same in CPU seconds of this thread."""

    @property
    def stolen(self) -> float:
        """Share of the time in which this thread did not run, although it never waits."""
        return max(0.0, 1 - float(self.own[:, 1].sum()) / float(self.wall[:, 1].sum()))

    @property
    def disturbed(self) -> bool:
        """Whether other processes took too much time for the wall clock to be meaningful."""
        return self.stolen >= QUIET

    @property
    def seconds(self) -> npt.NDArray[np.float64]:
        """[requests, 2]: seconds per request; CPU seconds if the round was disturbed."""
        return self.own if self.disturbed else self.wall


def run(task: StageTask) -> Outcome:
    """Measure latency and throughput from raw rows to probabilities.

    Raises:
        MissingDataError: There are no evaluate rows.
    """
    bundle = Bundle.load(task.inputs["export"].path, threads=1)
    # Every request is used once: cached values of one must not speed up the next.
    asked = task.spec.load_test.requests
    per_rate = asked // 2
    count = WARM_UP + ROUNDS * asked + per_rate * len(SHARES)
    rows = _evaluate_rows(task)
    requests = make_requests(rows, task.spec.columns.item, count, task.spec.seed)
    sent = requests[:SENT]
    for request in requests[:WARM_UP]:
        bundle.score(request)
    del requests[:WARM_UP]
    rounds: list[RequestTimes] = []
    while len(rounds) < ROUNDS and not (rounds and not rounds[-1].disturbed):
        task.progress(0.2 + 0.1 * len(rounds), f"{counted(asked, 'request')} one after the other")
        rounds.append(closed_loop(bundle, requests[:asked]))
        del requests[:asked]
    best = min(rounds, key=lambda times: times.stolen)
    lookup, closed = best.seconds.T
    throughput = len(closed) / float(closed.sum())
    reached = len(closed) / float(best.wall[:, 1].sum())
    curve = []
    for at, share in enumerate(SHARES):
        task.progress(0.5 + 0.1 * at, f"{share:.0%} of {reached:,.0f} requests/s")
        part = requests[at * per_rate : (at + 1) * per_rate]
        curve.append(open_loop(bundle, part, share * reached, task.spec.seed + at))
    latency = _percentiles(closed)
    metrics: dict[str, Any] = {
        "engine": "onnxruntime, 1 thread",
        "candidates": CANDIDATES,
        "requests": len(closed),
        "latency_ms": latency,
        "lookup_ms": _percentiles(lookup),
        "clock": "thread" if best.disturbed else "wall",
        "rounds": len(rounds),
        "stolen": round(best.stolen, 3),
        "requests_per_second_per_core": round(throughput, 1),
        "curve": curve,
    }
    note = ""
    if task.spec.serve is not None:
        metrics["served"] = _over_the_socket(task, sent, item_columns(rows, task.spec.columns.item))
        # The report shows the curve of the scorer that will serve.
        metrics["in_process_curve"] = curve
        metrics["curve"] = metrics["served"]["candidate"]["curve"]
        held = metrics["served"]["candidate"]["requests_per_second"]
        note = (
            f"; the scorer holds p99 {task.spec.serve.p99_ms:g} ms up to {held:,.0f} requests/s"
            f" (asked: {task.spec.serve.requests_per_second:,.0f})"
        )
    (task.output / "load_test.json").write_text(json.dumps(metrics, indent=1))
    return Outcome(
        rows=RowCounts(read=len(closed) * CANDIDATES, written=len(closed) * CANDIDATES),
        metrics=metrics,
        summary=f"{CANDIDATES} candidates: p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f}"
        f" ms, {throughput:,.0f} requests/s per core"
        + (f", while other processes used {best.stolen:.0%} of it" if best.disturbed else "")
        + note,
        volatile=("load_test.json",),
    )


def _over_the_socket(
    task: StageTask, requests: Sequence[pa.Table], of_item: Sequence[str]
) -> dict[str, Any]:
    """Measure the candidate, then the champion, against the pipeline's serving objective."""
    serve = task.spec.serve
    assert serve is not None
    bundles = {"candidate": task.inputs["export"]}
    if champion := task.inputs.get("champion"):
        bundles["champion"] = champion
    results: dict[str, Any] = {"objective": serve.model_dump()}
    for at, (name, bundle) in enumerate(bundles.items()):
        done = 0.9 + 0.05 * at

        def say(step: str, name: str = name, done: float = done) -> None:
            task.progress(done, f"{name}: {step}")

        bodies = make_bodies(requests, of_item, bundle.path)
        results[name] = measure(bundle.path, task.spec.pipeline, serve, bodies, say)
    return results


def make_requests(rows: pa.Table, item: str | None, count: int, seed: int) -> list[pa.Table]:
    """Make requests that pair one user in one context with many candidates.

    Each request takes its context from one row. The item's columns (those that depend only on the
    item in these rows) come from other rows.

    Args:
        rows: Raw rows of the logs, including reserved columns.
        item: Column with the candidate; None mixes whole rows.
        count: Number of requests; each one has another row as its context.
        seed: Seed of the random choice.
    """
    draw = np.random.default_rng(seed)
    raw = rows.select([name for name in rows.column_names if name not in RESERVED])
    of_item = item_columns(rows, item)
    heads = draw.choice(len(raw), count, replace=len(raw) < count)
    candidates = draw.integers(0, len(raw), count * CANDIDATES)
    # Build all requests at once: building them one by one took longer than scoring them.
    context = np.repeat(heads, CANDIDATES)
    columns = {
        name: raw[name].take(pa.array(candidates if name in of_item else context))
        for name in raw.column_names
    }
    together = pa.table(columns, schema=raw.schema).combine_chunks()
    return [together.slice(at * CANDIDATES, CANDIDATES) for at in range(count)]


def item_columns(rows: pa.Table, item: str | None) -> list[str]:
    """Return the columns whose values depend only on the item, including the item itself."""
    raw = [name for name in rows.column_names if name not in RESERVED]
    if item is None or item not in raw:
        return raw
    head = rows.slice(0, 5000)
    columns = []
    for name in raw:
        if pa.types.is_nested(head[name].type):
            continue
        values = pa.table({"item": head[item], "value": head[name]})
        distinct = values.group_by("item").aggregate([("value", "count_distinct")])
        if pc.max(distinct["value_count_distinct"]).as_py() == 1:
            columns.append(name)
    return columns


def closed_loop(bundle: Bundle, requests: Sequence[pa.Table]) -> RequestTimes:
    """Send requests one after the other, and measure each."""
    clocks = np.zeros((len(requests), 3, 2))
    for at, request in enumerate(requests):
        clocks[at, 0] = time.perf_counter(), time.thread_time()
        feed = bundle.look_up(request)
        clocks[at, 1] = time.perf_counter(), time.thread_time()
        bundle.run(feed)
        clocks[at, 2] = time.perf_counter(), time.thread_time()
    wall, own = np.moveaxis(clocks[:, 1:] - clocks[:, :1], 2, 0)
    return RequestTimes(wall, own)


def open_loop(
    bundle: Bundle, requests: Sequence[pa.Table], rate: float, seed: int
) -> dict[str, Any]:
    """Send requests at random times with a given mean rate, without waiting for answers.

    Latency is measured from the time at which a request was due, so it includes queueing.

    Args:
        bundle: Bundle under test, served by one thread.
        requests: Requests; each one is sent once.
        rate: Requests per second.
        seed: Seed of the random times.
    """
    draw = np.random.default_rng(seed)
    due = np.cumsum(draw.exponential(1 / rate, len(requests)))
    latencies = np.zeros(len(due))
    start = time.perf_counter()
    for at, (when, request) in enumerate(zip(due, requests, strict=True)):
        wait = start + when - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        bundle.score(request)
        latencies[at] = time.perf_counter() - start - when
    spent = time.perf_counter() - start
    return {
        "offered_per_second": round(rate, 1),
        "answered_per_second": round(len(due) / spent, 1),
        **{f"{name}_ms": value for name, value in _percentiles(latencies).items()},
    }


def _percentiles(seconds: npt.NDArray[np.float64]) -> dict[str, float]:
    return {f"p{at}": round(float(np.percentile(seconds, at)) * 1e3, 3) for at in (50, 95, 99)}


def _evaluate_rows(task: StageTask) -> pa.Table:
    files = split_files(task.inputs["sample"].path, "evaluate")
    if not files:
        raise MissingDataError("no evaluate rows", where="sample", hint="use a later --date")
    rows = pq.read_table(files[-1], partitioning=None).slice(0, ROWS)
    return rows.sort_by([(USER, "ascending")]) if USER in rows.column_names else rows
