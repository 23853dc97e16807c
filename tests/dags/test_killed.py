"""The short form of `chaos.py --airflow`: a scheduler is killed during a night.

Airflow's metadata and the ledger are in PostgreSQL. The scheduler's workers continue as orphans and
keep its connection. The night still ends promoted, with the digests of an undisturbed night.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from emulator.postgres import programs

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "chaos.py"
OF_AIRFLOW = ("AIRFLOW", "NIGHTBID")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("preloaded_python")
def test_a_night_continues_when_its_scheduler_is_killed(tmp_path: Path) -> None:
    if programs() is None:
        pytest.skip("no PostgreSQL server here → apt-get install postgresql")
    report = tmp_path / "chaos.jsonl"
    # Remove the variables of this process's Airflow, which has another database.
    plain = {name: value for name, value in os.environ.items() if not name.startswith(OF_AIRFLOW)}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--airflow", "--cases", "1", "--pipelines", "1",
         "--out", str(report)],
        capture_output=True, text=True, check=False, env=plain, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    night, tracked = map(json.loads, report.read_text().splitlines())
    assert "scheduler killed" in night["what"]
    assert "1 runs logged" in tracked["what"]
