"""The load test sends requests as a server gets them and reports complete figures."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import psutil
import pytest
from nightbid.config.serve import LoadTest, Serve
from nightbid.errors import StageError
from nightbid.night.manifest import Manifest
from nightbid.serving.bundle import Bundle
from nightbid.serving.load_test import closed_loop, item_columns, make_requests
from nightbid.serving.socket_test import holds, make_bodies, measure

from .running import children_with
from .small_night import SmallNight


@pytest.fixture
def busy_core():
    """Pin this process to one core, shared with two processes that never rest."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    yield
    for other in others:
        other.kill()
        other.wait()
    os.sched_setaffinity(0, cores)


def test_load_requests_have_one_user_and_time_and_many_candidates(night):
    raw = night.raw()
    for request in make_requests(raw, "ad_id", count=5, seed=1):
        assert len(request) == 100
        assert len(request["user_id"].unique()) == len(request["time"].unique()) == 1
        assert len(request["ad_id"].unique()) > 20


def test_load_requests_keep_item_columns_together(night):
    raw = night.raw()
    of_item = item_columns(raw, "ad_id")
    assert {"ad_id", "ad_category"} <= set(of_item)
    assert not {"user_id", "time", "page_category"} & set(of_item)
    known = set(zip(raw["ad_id"].to_pylist(), raw["ad_category"].to_pylist(), strict=True))
    for request in make_requests(raw, "ad_id", count=3, seed=2):
        pairs = zip(request["ad_id"].to_pylist(), request["ad_category"].to_pylist(), strict=True)
        assert set(pairs) <= known


def test_load_requests_are_equal_for_equal_seeds(night):
    raw = night.raw()
    one, two = (make_requests(raw, "ad_id", count=4, seed=3) for _ in range(2))
    assert all(a.equals(b) for a, b in zip(one, two, strict=True))


@pytest.fixture(scope="module")
def measured(night) -> Manifest:
    """Run the load test, in this process and over the scorer's socket."""
    served = SmallNight(night.root)
    serve = Serve(p99_ms=10_000, requests_per_second=400, candidates=5, processes=1, seconds=0.01)
    load_test = LoadTest(requests=40)
    served.spec = night.spec.model_copy(update={"serve": serve, "load_test": load_test})
    served.run = night.run
    return served.stage("load_test").manifest


def test_the_load_test_reports_latency_throughput_and_a_curve(measured):
    metrics = measured.metrics
    latency = metrics["latency_ms"]
    assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]
    assert metrics["candidates"] == 100
    assert metrics["requests"] == 40
    assert metrics["requests_per_second_per_core"] > 0
    offered = [point["offered_per_second"] for point in metrics["in_process_curve"]]
    assert offered == sorted(offered)
    assert len(np.unique(offered)) == 4


def test_latency_excludes_time_taken_by_other_processes(night, busy_core):
    bundle = Bundle.load(night.folder("export"), threads=1)
    requests = make_requests(night.raw(), "ad_id", count=100, seed=4)
    load = closed_loop(bundle, requests)
    assert load.disturbed
    assert load.stolen == pytest.approx(1 - load.seconds[:, 1].sum() / load.wall[:, 1].sum())
    assert (load.seconds[:, 0] <= load.seconds[:, 1]).all()


def test_the_load_test_measures_the_scorer_over_its_socket(measured):
    figures = measured.metrics["served"]["candidate"]
    assert [point["candidates"] for point in figures["candidates"]] == [1, 10, 100, 500]
    # On a busy machine few rates may hold; the highest that does is reported.
    held = [point["offered_per_second"] for point in figures["curve"] if holds(point, 10_000)]
    assert figures["requests_per_second"] == max(held, default=0)
    assert measured.metrics["curve"] == figures["curve"]
    for point in (*figures["candidates"], *figures["curve"]):
        assert point["failed"] == 0
        assert 0 < point["p50_ms"] <= point["p95_ms"] <= point["p99_ms"] <= point["p99.9_ms"]
    assert figures["memory_mb"] > 10
    assert figures["load_seconds"] > 0
    assert figures["start_seconds"] > 0
    assert "the scorer holds p99 10000 ms up to" in measured.summary


@pytest.mark.parametrize(
    ("victim", "words"),
    [
        ("scorer", "load_test: the tested scorer was killed (SIGKILL), often because memory ran"),
        ("worker", "load_test: a process of the tested scorer died and was started again, often"),
    ],
)
def test_a_scorer_that_is_killed_is_not_measured(night, victim, words):
    requests = make_requests(night.raw(), "ad_id", count=2, seed=1)
    of_item = item_columns(night.raw(), "ad_id")
    bundle = night.folder("export")
    killed: list[psutil.Process] = []

    def kill_once(doing: str) -> None:
        if killed or "requests/s" not in doing:
            return
        # The scorer's own command comes first.
        scorer = children_with("nightbid.scorer", os.getpid())[0]
        (worker,) = children_with("spawn_main", scorer.pid)
        killed.append(scorer if victim == "scorer" else worker)
        killed[0].kill()
        psutil.wait_procs([worker], 10)

    serve = Serve(p99_ms=10_000, requests_per_second=400, candidates=5, processes=1, seconds=0.01)
    with pytest.raises(StageError) as error:
        measure(bundle, "small", serve, make_bodies(requests, of_item, bundle), kill_once)
    assert words in str(error.value)
