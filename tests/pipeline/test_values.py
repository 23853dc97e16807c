"""Nights whose label is a value: seconds watched, mostly 0, with a known mean."""

from __future__ import annotations

import json
import re
from datetime import date, timedelta

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nightbid.serving.bundle import Bundle

FIRST = date(2026, 1, 5)
ROWS = 2500
SPREAD = 0.7
NEWEST = FIRST + timedelta(days=3)


def logs(day: date) -> pa.Table:
    """Return views of twenty videos; the video and the device determine the seconds watched."""
    draw = np.random.default_rng(day.toordinal())
    start = (day - date(1970, 1, 1)).days * 86_400_000_000
    device, ad = draw.integers(0, 2, ROWS), draw.integers(0, 20, ROWS)
    chance, middle = np.where(device == 0, 0.7, 0.3), 2.0 + 0.1 * (ad - 10)
    watched = np.exp(middle + SPREAD * draw.standard_normal(ROWS))
    return pa.table(
        {
            "impression_id": [f"{day}-{at}" for at in range(ROWS)],
            "time": pa.array(
                start + np.sort(draw.integers(0, 86_000, ROWS)) * 1_000_000,
                pa.timestamp("us", "UTC"),
            ),
            "user_id": draw.integers(0, 500, ROWS),
            "ad_id": ad,
            "device": np.array(["phone", "desktop"])[device],
            "watch_seconds": np.where(draw.random(ROWS) < chance, watched, 0.0),
            "expected": chance * np.exp(middle + SPREAD**2 / 2),
        }
    )


@pytest.fixture
def views(shell, tmp_path):
    """Return a shell with a pipeline over four days of views."""
    for at in range(4):
        folder = tmp_path / "logs" / f"dt={FIRST + timedelta(days=at)}"
        folder.mkdir(parents=True)
        pq.write_table(logs(FIRST + timedelta(days=at)), folder / "part.parquet")
    shell.write(
        "views",
        source={"kind": "parquet", "folder": str(tmp_path / "logs"), "outcomes": ["expected"]},
        columns={},
        label={
            "kind": "value",
            "column": "watch_seconds",
            "distribution": "zero_inflated_lognormal",
        },
        window={"train_days": 2},
        features={"ad_id": "vocabulary", "device": "vocabulary"},
        model={"architecture": "deep", "parameters": {"hidden": [16]}},
        train={"learning_rate": 0.005, "refit": False},
        evaluate={
            "slices": ["device"],
            "bootstrap": 50,
            "margin_deviance": 1,
            "margin_gini": 1,
        },
        gates={
            "model": {"deviance_loss": {}, "gini_loss": {}, "deviance_vs_baseline": {}},
            "serving": {"p99_ms": {}, "requests_per_second_per_core": {}},
        },
    )
    return shell


def metrics_of(shell, stage: str, run_id: str) -> dict:
    """Return the metrics of a stage of a run."""
    records = sorted((shell.workspace / "runs/views" / run_id / "stages").glob(f"{stage}.*.json"))
    uri = json.loads(records[-1].read_text())
    folder = (uri.get("body") or uri)["uri"]
    return json.loads((shell.workspace / folder / "manifest.json").read_text())["metrics"]


def ask_the_scorer(shell, rows: pa.Table, scores: np.ndarray) -> None:
    """Request scores of the first champion and a ranking from `nightbid serve`."""
    code, text = shell.run("rollback", "views", "--to", "1", "--reason", "a test of values")
    assert code == 0, text
    process = shell.start("serve", "views", "--port", "0", "--processes", "1")
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        address = next(match[0] for line in lines if (match := re.search(r"http://\S+:\d+", line)))
        request_rows = rows.slice(0, 5).select(["ad_id", "device"]).to_pylist()
        with httpx.Client(base_url=address, trust_env=False, timeout=120) as scorer:
            answer = scorer.post("/score", json={"rows": request_rows}).json()
            assert answer["values"] == pytest.approx(scores[:5], rel=1e-5)
            described = scorer.get("/openapi.json").json()["paths"]["/score"]["post"]
            assert described["summary"] == "One value per row, in order."
            ranked = scorer.post("/rank", json={"rows": request_rows, "bids": [1.0] * 5})
            assert ranked.status_code == 422
            assert "predicts values" in ranked.json()["error"]
    finally:
        process.terminate()
        process.wait(timeout=120)


def test_value_models_are_trained_evaluated_served_and_rolled_back(views, tmp_path):
    code, text = views.run("run", "views", "--date", str(NEWEST), "--run-id", "first")
    assert code == 0, text
    assert "promoted as champion #1" in text
    assert "Gini" in text
    assert "AUC" not in text
    assert "mean value" in text
    assert "label rate" not in text
    metrics = metrics_of(views, "evaluate", "first")
    candidate = metrics["candidate"]
    assert metrics["kind"] == "value"
    assert 0.85 < candidate["calibration"] < 1.15
    assert candidate["normalized_deviance"] < metrics["constant"]["normalized_deviance"] - 0.05
    assert {piece["value"] for piece in metrics["slices"]} == {"phone", "desktop"}
    for piece in metrics["slices"]:
        assert 0.8 < piece["candidate"]["calibration"] < 1.25
    assert metrics_of(views, "export", "first")["parity_max_difference"] < 1e-4

    # The exported graph returns expected values near the true ones.
    newest = logs(NEWEST)
    bundle = Bundle.load(next(views.workspace.glob("stages/views/export/*")))
    scores = bundle.score(newest.select(bundle.columns))
    expected = np.asarray(newest["expected"])
    assert np.corrcoef(scores, expected)[0, 1] > 0.95
    assert scores.mean() == pytest.approx(expected.mean(), rel=0.12)
    assert bundle.card.output == "value"

    code, text = views.run(
        "run", "views", "--date", str(NEWEST), "--run-id", "second",
        "--set", "model.architecture=gradient_boosted_trees", "--set", "model.parameters={}",
        "--set", "label.distribution=tweedie",
    )  # fmt: skip
    assert code == 0, text
    second = metrics_of(views, "evaluate", "second")
    assert second["reference"] == "champion"
    assert second["difference"]["normalized_deviance"]["low"] is not None
    assert metrics_of(views, "export", "second")["parity_max_difference"] < 1e-4
    code, text = views.run("compare", "views", "first", "second")
    assert code == 0, text
    assert "norm. deviance" in text
    assert "AUC" not in text

    ask_the_scorer(views, newest, scores)

    code, text = views.run("score", "views", "--date", str(NEWEST))
    assert code == 0, text
    file = next(views.workspace.glob("stages/views/score/*/scores/dt=*/*.parquet"))
    assert pq.read_table(file, partitioning=None)["value"].to_numpy().max() > 1
