"""The short form of benchmarks/chaos.py: disturbed nights end complete."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

KINDS = ["kill", "error", "damage", "twice", "retire", "race", "slow", "stall"]
PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "chaos.py"


@pytest.mark.slow
@pytest.mark.usefixtures("preloaded_python")
def test_disturbed_nights_end_with_the_undisturbed_result(tmp_path: Path) -> None:
    report = tmp_path / "chaos.jsonl"
    for cases in (7, len(KINDS)):
        done = subprocess.run(
            [sys.executable, str(PROGRAM), "--cases", str(cases), "--out", str(report)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    reports = [json.loads(line) for line in report.read_text().splitlines()]
    assert [case["case"] for case in reports] == list(range(len(KINDS))), "the second call went on"
    assert f"{len(reports)} cases" in done.stdout
    assert [case["kind"] for case in reports] == KINDS
