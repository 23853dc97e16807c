"""`POST /rank` runs the auction of a request."""

from __future__ import annotations

import itertools
import json
import re

import numpy as np
import pyarrow as pa
import pytest

from .test_scorer_arrow import STREAM, written

nan = float("nan")


def test_rank_orders_candidates_by_ecpm_at_second_prices(night, scorer):
    scorer.promote(night, "first")
    raw = night.raw().slice(0, 40)
    quality = np.array(scorer.score(raw).json()["probabilities"])
    bids = [round(0.5 + 0.1 * (at % 7), 2) for at in range(40)]
    ids = [f"c{at:02d}" for at in range(40)]

    def ranking(**more: object) -> list[dict]:
        body = {"rows": raw.to_pylist(), "bids": bids, "ids": ids, **more}
        answer = scorer.http.post(
            "/rank", content=json.dumps(body, default=lambda t: t.isoformat())
        )
        assert answer.status_code == 200, answer.text
        return answer.json()["ranking"]

    ranked = ranking()
    assert len(ranked) == 40
    scores = np.array([entry["bid"] * entry["probability"] for entry in ranked])
    assert (np.diff(scores) <= 0).all()
    assert [entry["probability"] for entry in ranked] == [quality[entry["row"]] for entry in ranked]
    for above, below in itertools.pairwise(ranked):
        expected = below["bid"] * below["probability"] / above["probability"]
        assert above["price"] == pytest.approx(min(expected, above["bid"]))
    assert ranked[-1]["price"] == 0
    floor = float(np.median(quality))
    remaining = ranking(auction={"pricing": "first", "reserve": 0.7, "quality_floor": floor})
    assert {entry["id"] for entry in remaining} == {
        name for name, bid, q in zip(ids, bids, quality, strict=True) if bid >= 0.7 and q >= floor
    }
    assert all(entry["price"] == entry["bid"] for entry in remaining)
    # Among equal candidates, the smaller id comes first.
    one = raw.slice(0, 1).to_pylist()[0]
    tied = ranking(rows=[one] * 3, bids=[1, 1, 1], ids=["b", "c", "a"])
    assert [entry["id"] for entry in tied] == ["a", "b", "c"]
    assert [entry["price"] for entry in tied] == pytest.approx([1, 1, 0])
    # The same request as columns.
    columns = raw.append_column("nb_bid", pa.array(bids)).append_column("nb_id", pa.array(ids))
    for auction in ({}, {"pricing": "first", "reserve": 0.7, "quality_floor": floor}):
        table = columns.replace_schema_metadata({"auction": json.dumps(auction)})
        answer = scorer.http.post("/rank", content=written(table), headers=STREAM)
        assert answer.status_code == 200, answer.text
        assert answer.json()["ranking"] == ranking(auction=auction)
    for table, line in (
        (raw, "column 'nb_bid' is missing"),
        (raw.append_column("nb_bid", pa.array(["1"] * 40)), r"bids\[0\]: '1' is not a number"),
        (columns.replace_schema_metadata({"auction": "{"}), "auction: not JSON"),
    ):
        answer = scorer.http.post("/rank", content=written(table), headers=STREAM)
        assert answer.status_code == 422, answer.text
        assert re.search(line, answer.json()["error"]), answer.text
    for wrong, line in (
        ({"bids": [1]}, "bids: 1 value for 40 rows"),
        ({"bids": [True] * 40}, r"bids\[0\]: True is not a number"),
        ({"bids": [-1] * 40}, "-1"),
        ({"ids": [1] * 39}, "ids: not 40 ids"),
        ({"auction": {"prising": "gsp"}}, "unknown key 'prising'"),
        ({"auction": {"pricing": "third"}}, "pricing is 'third'"),
        ({"auction": {"slots": [0.5, 1]}}, "list the slots from best to worst"),
        ({"auction": {"slots": [1, nan]}}, r"slots\[1\]: nan is not a finite number"),
        # An auction that no candidate can enter would otherwise look like one without demand.
        ({"auction": {"quality_floor": nan}}, "auction.quality_floor: nan is not a finite number"),
        ({"auction": {"quality_floor": 5}}, "auction.quality_floor: 5 is not a probability"),
        ({"auction": {"reserve": 10**400}}, "auction.reserve: 10+ is not a finite number"),
        ({"bids": [1, 10**400, *bids[2:]]}, r"bids\[1\]: 10+ is not a finite number"),
        ({"bids": [1e308] * 40}, r"bids\[0\]: 1e\+308 is not a finite number"),
        ({"ids": [1 << 70, *range(39)]}, r"ids\[0\]: 1\.18\d+e\+21 is neither a text nor"),
        ({"ids": [*ids[:39], "\ud800"]}, r"ids\[39\]: '\\ud800' is neither a text nor"),
        ({"ids": [None] * 40}, r"ids\[0\]: None is neither a text nor an integer"),
    ):
        body = {"rows": raw.to_pylist(), "bids": bids, "ids": ids, **wrong}
        answer = scorer.http.post(
            "/rank", content=json.dumps(body, default=lambda t: t.isoformat())
        )
        assert answer.status_code == 422, answer.text
        assert re.search(line, answer.json()["error"]), answer.text
