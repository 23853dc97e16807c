"""A backfill over REST starts many runs at once, but the pipeline runs one night at a time."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from airflows import embedded
from emulator.installation import until
from nightbid.config.settings import Settings
from nightbid.night.sealed import unseal
from nightbid.night.turns import Turn

DAG = "nightly_small"
NIGHTS = [dt.date(2026, 1, 8) + dt.timedelta(days=day) for day in range(3)]


def begun(workspace: Path) -> list[Turn]:
    folder = workspace / "turns" / "small" / "begun"
    return [unseal(Turn, path.read_bytes(), path, "") for path in sorted(folder.glob("*.json"))]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_backfill_over_rest_beside_a_night_by_hand(
    pipelines: Callable[..., Path], tmp_path: Path
) -> None:
    from nightbid_airflow.embedded.home import Home

    # There are no logs: every night ends at its first stage, once it may run.
    pipelines(schedule="0 2 * * *", source={"kind": "parquet", "folder": str(tmp_path / "none")})
    with embedded(Home(tmp_path / "airflow"), Settings()) as airflow:
        client = airflow.client
        until(lambda: client.has_dag(DAG))
        body = {
            "dag_id": DAG, "from_date": "2026-01-08T00:00:00Z", "to_date": "2026-01-10T23:00:00Z",
            "reprocess_behavior": "none", "max_active_runs": 10, "run_backwards": False,
            "dag_run_conf": {},
        }  # fmt: skip
        # SQLite takes one writer at a time, and Airflow refuses a backfill that meets another.
        until(lambda: client._http.post("/api/v2/backfills", json=body).is_success)
        client.trigger(DAG, "by-hand", {"date": "2026-01-20"})
        client.unpause(DAG)
        most, deadline = 0, time.monotonic() + 800
        while True:
            assert time.monotonic() < deadline, begun(tmp_path / "workspace")
            # Read the started runs before the running ones, so no run in between is counted.
            turns = {turn.run_id for turn in begun(tmp_path / "workspace")}
            listed = (client._call("GET", f"dags/{DAG}/dagRuns") or {})["dag_runs"]
            running = {run["dag_run_id"] for run in listed if run["state"] == "running"}
            most = max(most, len(running))
            assert len(running & turns) <= 1, "two nights at once"
            if len(listed) == 4 and all(run["state"] == "failed" for run in listed):
                break
            time.sleep(0.5)
        # The name of a run gives its night, and its note gives its outcome.
        for run in listed:
            night = (run["logical_date"] or "2026-01-20")[:10]
            # The folder of the logs is missing: there is no record of the stage yet.
            assert run["note"].startswith(f"🔴 Night of {night}: the run ended before"), run["note"]
            assert "[Page of the night](/plugin/nightbid/nightbid/runs/small/" in run["note"]
    assert most > 1, "Airflow itself runs them side by side"
    order = [turn.date for turn in begun(tmp_path / "workspace")]
    assert [date for date in order if date in NIGHTS] == NIGHTS
    assert len(order) == 4
