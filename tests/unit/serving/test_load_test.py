"""The load test: requests like those of a server, and figures that are whole."""

from __future__ import annotations

import numpy as np
from nightbid.serving.load_test import item_columns, make_requests


def test_a_request_is_one_user_in_one_context_with_many_candidates(night):
    raw = night.raw()
    for request in make_requests(raw, "ad_id", count=5, seed=1):
        assert len(request) == 100
        assert len(request["user_id"].unique()) == len(request["time"].unique()) == 1
        assert len(request["ad_id"].unique()) > 20


def test_what_belongs_to_an_ad_comes_with_it(night):
    raw = night.raw()
    of_item = item_columns(raw, "ad_id")
    assert {"ad_id", "ad_category"} <= set(of_item)
    assert not {"user_id", "time", "page_category"} & set(of_item)
    known = set(zip(raw["ad_id"].to_pylist(), raw["ad_category"].to_pylist(), strict=True))
    for request in make_requests(raw, "ad_id", count=3, seed=2):
        pairs = zip(request["ad_id"].to_pylist(), request["ad_category"].to_pylist(), strict=True)
        assert set(pairs) <= known


def test_requests_are_the_same_for_the_same_seed(night):
    raw = night.raw()
    one, two = (make_requests(raw, "ad_id", count=4, seed=3) for _ in range(2))
    assert all(a.equals(b) for a, b in zip(one, two, strict=True))


def test_the_stage_reports_latency_throughput_and_a_curve(night):
    metrics = night.stage("load_test").manifest.metrics
    latency = metrics["latency_ms"]
    assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]
    assert metrics["candidates"] == 100
    assert metrics["requests"] == 300
    assert metrics["requests_per_second_per_core"] > 0
    offered = [each["offered_per_second"] for each in metrics["curve"]]
    assert offered == sorted(offered)
    assert len(np.unique(offered)) == 4
