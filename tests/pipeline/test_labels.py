"""Nights with an event time as the label and with row weights."""

from __future__ import annotations

import json
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nightbid.schema import LABEL, WEIGHT

FIRST = date(2026, 1, 5)
ROWS = 2000
LENIENT = [
    {"gate": gate, "check": "*", "name": "tester", "reason": "so few rows", "until": "2099-01-01"}
    for gate in ("model", "serving")
]


def logs(day: date) -> pa.Table:
    """Return conversions; a conversion on a phone has nine times the weight."""
    draw = np.random.default_rng(day.toordinal())
    start = (day - date(1970, 1, 1)).days * 86_400_000_000
    time = start + np.sort(draw.integers(0, 86_000, ROWS)) * 1_000_000
    device = draw.choice(["phone", "desktop"], ROWS)
    bought = draw.random(ROWS) < np.where(device == "phone", 0.4, 0.1)
    return pa.table(
        {
            "impression_id": [f"{day}-{at}" for at in range(ROWS)],
            "time": pa.array(time, pa.timestamp("us", "UTC")),
            "user_id": draw.integers(0, 400, ROWS),
            "ad_id": draw.integers(0, 20, ROWS),
            "device": device,
            "w": np.where(device == "phone", 9, 1),
            "bought_at": pa.array(time + 60_000_000, pa.timestamp("us", "UTC"), mask=~bought),
        }
    )


def test_row_weights_apply_to_predictions_and_metrics(shell, tmp_path):
    for at in range(4):
        folder = tmp_path / "logs" / f"dt={FIRST + timedelta(days=at)}"
        folder.mkdir(parents=True)
        pq.write_table(logs(FIRST + timedelta(days=at)), folder / "part.parquet")
    shell.write(
        "weighted",
        source={"kind": "parquet", "folder": str(tmp_path / "logs")},
        columns={"weight": "w"},
        label={"column": "bought_at", "positive": "known", "event_time": "bought_at"},
        window={"train_days": 2},
        # No feature identifies phones, so only the mean rate is right.
        features={"ad_id": "vocabulary"},
        evaluate={"bootstrap": 50},
        gates={"overrides": LENIENT},
    )
    code, text = shell.run("run", "weighted", "--date", str(FIRST + timedelta(days=3)))
    assert code == 0, text
    newest = logs(FIRST + timedelta(days=3))
    label, weight = np.asarray(newest["bought_at"].is_valid()), np.asarray(newest["w"])
    rate = np.average(label, weights=weight)
    assert rate - label.mean() > 0.08
    folder = next(shell.workspace.glob("stages/weighted/evaluate/*"))
    scores = pq.read_table(next(folder.glob("**/*.parquet")), partitioning=None)
    assert sorted(set(scores[WEIGHT].to_pylist())) == [1, 9]
    predictions = np.asarray(scores["candidate"], np.float64)
    assert np.average(predictions, weights=scores[WEIGHT]) == pytest.approx(rate, abs=0.03)
    loss = -np.average(
        np.where(np.asarray(scores[LABEL]) == 1, np.log(predictions), np.log1p(-predictions)),
        weights=scores[WEIGHT],
    )
    metrics = json.loads((folder / "manifest.json").read_text())["metrics"]
    assert metrics["label_rate"] == pytest.approx(rate, abs=1e-6)
    assert json.dumps(metrics).count(f"{loss:.6f}"[:7]) > 0
