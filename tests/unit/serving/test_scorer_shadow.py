"""A second bundle that scores the same requests."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from emulator.installation import until
from nightbid.scorer.outcomes import calibration
from nightbid.scorer.shadow_sums import ShadowComparison
from nightbid.serving.bundle import Bundle
from preloaded import COMMANDS

from .running import serving
from .small_night import PIPELINE


def _until(scorer, requests: int) -> dict:
    """Wait until the shadow has scored this many requests, and return the comparison."""

    def compared() -> dict | None:
        comparisons = scorer.http.get("/shadow").json().get("comparisons", [])
        return next((each for each in comparisons if each["requests"] == requests), None)

    return until(compared, what=f"{requests} requests in the shadow")


def _sent(scorer, ask: Callable[[], httpx.Response]) -> httpx.Response:
    """Send a request until the shadow gets it, too; one that is busy misses requests."""

    def reaches() -> httpx.Response | None:
        before = scorer.metric("nightbid_shadow_unsent_total")
        answer = ask()
        return answer if scorer.metric("nightbid_shadow_unsent_total") == before else None

    return until(reaches, what="a request that reaches the shadow")


def test_shadow_scores_are_compared_with_the_champion_and_logged(night, other, tmp_path):
    log = tmp_path / "shadow.jsonl"
    options = ("--processes", "1", "--shadow", str(other.folder("export")))
    key = ("--shadow-key", "impression_id")
    with serving(tmp_path, *options, "--shadow-log", str(log), *key) as scorer:
        number = scorer.promote(night, "first")
        raw = night.raw()
        champion = Bundle.load(night.folder("export"))
        shadow_bundle = Bundle.load(other.folder("export"))
        until(lambda: scorer.http.get("/shadow").status_code != 404)  # the shadow is starting
        parts = [raw.slice(20 * at, 20) for at in range(10)]
        for part in parts:
            answer = _sent(scorer, partial(scorer.score, part))
            assert answer.json()["probabilities"] == champion.score(part).tolist()
        comparison = _until(scorer, 10)
        champion_scores, shadow_scores = (
            champion.score(raw.slice(0, 200)),
            shadow_bundle.score(raw.slice(0, 200)),
        )
        assert (comparison["champion"], comparison["rows"]) == (number, 200)
        assert comparison["mean_difference"] == pytest.approx(
            np.abs(champion_scores - shadow_scores).mean()
        )
        assert comparison["largest_difference"] == pytest.approx(
            np.abs(champion_scores - shadow_scores).max()
        )
        assert comparison["mean_probability"]["shadow"] == pytest.approx(shadow_scores.mean())
        changed = [
            champion.score(part).argmax() != shadow_bundle.score(part).argmax() for part in parts
        ]
        assert comparison["winner_changed"] == pytest.approx(np.mean(changed))
        assert -1 <= comparison["kendall_tau"] < 1
        # The auction orders candidates by bid times probability.
        body = {"rows": parts[0].to_pylist(), "bids": [1.0] * 19 + [1e6]}
        content = json.dumps(body, default=lambda t: t.isoformat())
        ranked = _sent(scorer, partial(scorer.http.post, "/rank", content=content))
        assert ranked.status_code == 200
        assert _until(scorer, 11)["winner_changed"] == pytest.approx(np.sum(changed) / 11)
        text = scorer.http.get("/metrics").text
        assert f'nightbid_shadow_requests_total{{champion="{number}"' in text
        assert "nightbid_shadow_tau_sum" in text
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert len(lines) == 11
        assert {"kendall_tau", "winner_changed", "mean_difference"} <= lines[0].keys()
        pq.write_table(raw.slice(0, 150), tmp_path / "outcomes.parquet")
        (judged,) = calibration(log, tmp_path / "outcomes.parquet", "click")
        assert (judged["rows"], judged["without_outcome"]) == (150, 50)
        clicks = raw["click"].to_numpy()[:150] > 0
        assert judged["observed"] == pytest.approx(clicks.mean())
        assert judged["of_champion"]["mean"] == pytest.approx(champion_scores[:150].mean())
        assert judged["of_shadow"]["ratio"] == pytest.approx(
            shadow_scores[:150].mean() / clicks.mean()
        )
        # A log that cannot be written any more does not stop the comparison.
        log.unlink()
        log.mkdir()
        _sent(scorer, partial(scorer.score, parts[0]))
        assert _until(scorer, 12)
        assert "Traceback" not in scorer.log()


def test_shadow_previous_follows_the_previous_champion(night, other, tmp_path):
    with serving(tmp_path, "--processes", "1", "--shadow", "previous") as scorer:
        scorer.promote(night, "first")
        scorer.promote(other, "second")
        digest = night.stage("export").manifest.digest[:12]
        statuses = []

        def compared() -> list[dict]:
            statuses.append(scorer.score(night.raw().slice(0, 5)).status_code)
            return scorer.http.get("/shadow").json().get("comparisons", [])

        (comparison,) = until(compared)
        assert set(statuses) == {200}
        assert comparison["shadow"] == digest
        assert comparison["run_id"] == "first"
        assert comparison["requests"] <= len(statuses)


def test_a_missing_shadow_is_reported_with_the_option_to_set(scorer, tmp_path):
    answer = scorer.http.get("/shadow")
    assert answer.status_code == 404
    assert "--shadow" in answer.json()["error"]
    (tmp_path / "small.yaml").write_text(PIPELINE)
    environment = {**os.environ, "NIGHTBID_PIPELINES": str(tmp_path), "COLUMNS": "300"}
    done = COMMANDS.run("serve", "small", "--shadow", "challenger", env=environment)
    assert done.returncode == 2
    assert "no bundle at 'challenger'" in done.stderr
    assert "use previous, candidate or the folder" in done.stderr


def test_shadow_comparison_counts_changed_orders_and_winners():
    one = ShadowComparison(1, "b", "r")
    one.add(np.array([0.1, 0.2, 0.3]), np.array([0.1, 0.2, 0.3]))
    assert one.summary()["kendall_tau"] == 1
    one.add(np.array([0.1, 0.2, 0.3]), np.array([0.3, 0.2, 0.1]))
    one.add(np.array([0.5]), np.array([0.7]))
    one.add(np.array([]), np.array([]))
    one.add(np.array([0.2, 0.2]), np.array([0.2, 0.2]))  # no order at all
    summary = one.summary()
    assert summary["requests"] == 5
    assert summary["kendall_tau"] == 0
    assert summary["winner_changed"] == pytest.approx(1 / 3)
    assert summary["largest_difference"] == pytest.approx(0.2)
