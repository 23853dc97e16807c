"""A night serves a model refitted on the newest days, too, after a gate has judged it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from nightbid.features.fitted import FittedFeatures
from nightbid.models.predict import load_model
from nightbid.night.record import RunRecord, runs_of
from nightbid.schema import split_files
from nightbid.serving.bundle import Bundle
from nightbid.storage.workspace import Workspace

pytestmark = pytest.mark.slow


def output(run: RunRecord, stage: str) -> Path:
    record = run.stage(stage)
    assert record is not None
    return Path(str(run.workspace.at(record.uri)))


def metrics(run: RunRecord, stage: str) -> dict:
    return json.loads((output(run, stage) / "manifest.json").read_text())["metrics"]


GATES: dict[str, Any] = {
    "overrides": [
        {"gate": "model", "check": "*", "name": "tests", "reason": "so few rows prove nothing",
         "until": "2099-01-01"}
    ],
    # Test machines are busy, so these tests ignore the latency of a bundle.
    "serving": {"p99_ms": {}, "requests_per_second_per_core": {}},
}  # fmt: skip


def test_refit_serves_newest_days_and_the_judged_model_stays_reference(shell):
    shell.write(
        model={"architecture": "gradient_boosted_trees"},
        baseline={"architecture": "gradient_boosted_trees"},
        train={},  # a night refits by default
        # With these settings a night reads other days and must still reach a champion.
        window={"train_days": 2, "history_days": 2, "lag_days": 1},
        gates=GATES,
    )
    code, text = shell.run("run", "small", "--date", "2026-01-08")
    assert code == 0, text
    assert "refitted on" in text
    assert "promoted as champion #1" in text
    code, text = shell.run("run", "small", "--date", "2026-01-09", "--until", "evaluate")
    assert code == 0, text
    first, second = runs_of(Workspace(str(shell.workspace)), "small")

    refit = metrics(first, "export")["refit"]
    held = refit["held_rows"]
    rows = sum(
        pq.read_metadata(path).num_rows
        for split in ("train", "validate", "evaluate")
        for path in split_files(output(first, "featurize"), split)
    )
    # The refit learns all days, except a tenth of the users on the newest days.
    assert refit["rows"] == rows
    assert 0.02 < held / rows < 0.1
    assert refit["judged"]["log_loss"] != refit["refitted"]["log_loss"]
    assert refit["difference"]["low"] <= refit["difference"]["value"]
    assert refit["agreement"] > 0.3
    # The refit has the best number of trees of the judged model.
    assert refit["epochs"] == metrics(first, "train")["best_epoch"]

    folder = output(first, "export")
    sample = pq.read_table(split_files(output(first, "featurize"), "evaluate"), partitioning=None)
    judged, served = Bundle.load(folder, judged=True), Bundle.load(folder)
    trained = load_model(output(first, "train") / "model").predict(sample)
    np.testing.assert_allclose(judged.predict(sample), trained, atol=1e-6)
    assert np.abs(served.predict(sample) - trained).max() > 1e-4
    verdicts = " ".join(path.read_text() for path in output(first, "gate_serving").glob("*.json"))
    for check in ("refit_loss", "refit_calibration", "refit_mean", "refit_agreement"):
        assert check in verdicts

    # No refit passes these limits, so the judged model, which passed every gate, serves.
    impossible = {"refit_agreement": {"stop": [1.1, None]}}
    shell.write(
        model={"architecture": "gradient_boosted_trees"},
        baseline={"architecture": "gradient_boosted_trees"},
        train={},
        window={"train_days": 2, "history_days": 2, "lag_days": 1},
        gates={**GATES, "serving": {**GATES["serving"], **impossible}},
    )
    code, text = shell.run("run", "small", "--date", "2026-01-08", "--run-id", "fallback")
    assert code == 0, text
    why = (
        r"the judged model serves: the refitted model's refit_agreement is \d\.\d+, expected ≥ 1.1"
    )
    assert re.search(why, text), text
    fallback = next(
        record for record in runs_of(Workspace(str(shell.workspace)), "small")
        if record.run_id == "fallback"
    )  # fmt: skip
    assert not (output(fallback, "export") / "judged.onnx").exists()
    served = Bundle.load(output(fallback, "export"))
    np.testing.assert_allclose(served.predict(sample), trained, atol=1e-6)
    gate = json.loads((output(fallback, "gate_serving") / "gate.json").read_text())
    assert gate["verdict"] == "warn"
    warned = {finding["statistic"]: finding["note"] for finding in gate["findings"]}
    assert re.search(why, warned["refit_fallback"])

    # Neither the next night's candidate nor its champion has seen that night's newest days.
    evaluated = pq.read_table(output(second, "evaluate") / "scores" / "part-00000.parquet")
    assert metrics(second, "evaluate")["reference"] == "champion"
    raw = pq.read_table(split_files(output(second, "sample"), "evaluate"), partitioning=None)
    tonight = FittedFeatures.load(output(second, "featurize") / "fitted")
    again = judged.predict(judged.fitted.with_history(tonight).transform(raw))
    np.testing.assert_allclose(evaluated["champion"].to_numpy(), again, atol=1e-6)
