"""A warning that repeats every night eventually stops a night, unless it cannot go away."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta

import pytest
from nightbid.config.gates import Gates
from nightbid.config.pipeline import PipelineSpec
from nightbid.gates import serving
from nightbid.gates.judge import judge
from nightbid.gates.measurements import Measurements
from nightbid.night.attempts import StageRecord
from nightbid.night.record import RunRecord
from nightbid.storage.workspace import Workspace

NEWEST = date(2026, 1, 20)

SLOW = {
    "load_test": {
        "engine": "onnx", "candidates": 100, "requests": 500, "curve": [],
        "latency_ms": {"p50": 2.0, "p95": 3.0, "p99": 30.0},
        "requests_per_second_per_core": 400.0,
    },
    "export": {
        "parity_max_difference": 6e-8, "skew_rows": 1000, "skew_mismatches": 0,
        "bytes": 10_000_000,
    },
}  # fmt: skip


@pytest.fixture
def warned(tmp_path):
    """Record what the serving gate found on earlier nights: one statistic each, or none."""

    def leave(*statistics: str) -> None:
        spec = PipelineSpec.model_validate({"pipeline": "t", "features": {"a": {"column": "a"}}})
        for at, statistic in enumerate(statistics):
            night = NEWEST - timedelta(days=len(statistics) - at)
            run = RunRecord.start(Workspace(str(tmp_path)), spec, night)
            folder = tmp_path / "earlier" / run.run_id
            folder.mkdir(parents=True)
            findings = [{"statistic": statistic, "part": ""}] if statistic else []
            result = {"night": str(night), "findings": findings}
            (folder / "gate.json").write_text(json.dumps(result))
            run.record(
                StageRecord(
                    stage="gate_serving", state="done", uri=f"earlier/{run.run_id}",
                    started=datetime.now(UTC), seconds=1,
                )
            )  # fmt: skip

    return leave


@pytest.mark.parametrize(
    ("earlier", "verdict", "message"),
    [
        (["p99_ms"], "warn", "warned for 2 nights in a row, stops after 2"),
        (["p99_ms", "p99_ms"], "stop", "warned for 2 nights in a row"),
        (["p99_ms", "p99_ms", ""], "warn", "p99_ms is 30"),
        (["p50_ms", "p99_ms"], "warn", "warned for 2 nights in a row, stops after 2"),
    ],
)
def test_a_repeated_warning_stops_after_its_limit(gate, warned, earlier, verdict, message):
    warned(*earlier)
    outcome = gate(serving, SLOW, gates={"warnings_expire_after": 2})
    assert outcome.verdict == verdict, outcome.summary
    assert message in outcome.summary


def test_an_overridden_warning_does_not_expire(gate, warned, tmp_path):
    warned(*["p99_ms"] * 5)
    ann = {"gate": "serving", "check": "p99_ms", "name": "Ann", "reason": "until the new machines"}
    blocks = {"warnings_expire_after": 2, "overrides": [{**ann, "until": NEWEST}]}
    assert gate(serving, SLOW, gates=blocks).verdict == "warn"
    assert "allowed until 2026-01-20 by Ann" in (tmp_path / "out/index.html").read_text()


def test_a_lasting_warning_does_not_expire():
    """Logs may stay small permanently."""
    measurements = Measurements()
    measurements.add("positives", 50, lasting=True)
    limits = Gates(warnings_expire_after=1)
    judged = judge("model", measurements, limits, NEWEST, lambda names: dict.fromkeys(names, 9))
    assert judged.verdict == "warn"


def test_only_warnings_about_the_newest_day_expire():
    measurements = Measurements()
    measurements.add("psi", 0.2, subject="price", part="2026-01-19")
    limits = Gates(warnings_expire_after=1)
    assert judge(
        "raw", measurements, limits, NEWEST, lambda names: dict.fromkeys(names, 9)
    ).verdict == ("warn")
    measurements.add("psi", 0.2, subject="price", part="2026-01-20, 4,000 rows")
    assert judge(
        "raw", measurements, limits, NEWEST, lambda names: dict.fromkeys(names, 9)
    ).verdict == ("stop")
