"""Nights that a backfill, a user and the schedule start together run one at a time."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from emulator.installation import until
from nightbid.config.settings import Settings
from nightbid.night.sealed import unseal
from nightbid.night.turns import Turn

BUSY = "nightly_busy"
NIGHTS = [dt.date(2026, 1, 8) + dt.timedelta(days=day) for day in range(2)]


def begun(settings: Settings) -> list[Turn]:
    folder = Path(settings.workspace) / "turns" / "busy" / "begun"
    return [unseal(Turn, path.read_bytes(), path, "") for path in sorted(folder.glob("*.json"))]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_backfilled_manual_and_scheduled_nights_run_one_at_a_time(
    airflow: Any, settings: Settings, parse: Callable[[str], None], tmp_path: Path
) -> None:
    # There are no logs: every night ends at its first stage, once it may run.
    tree = {
        "pipeline": "busy", "schedule": "0 0 * * *", "features": {"device_type": "vocabulary"},
        "source": {"kind": "parquet", "folder": str(tmp_path / "none")},
    }  # fmt: skip
    (settings.pipelines / "busy.yaml").write_text(yaml.safe_dump(tree))
    parse(BUSY)
    client = airflow.client
    body = {
        "dag_id": BUSY, "from_date": "2026-01-08T00:00:00Z", "to_date": "2026-01-09T23:00:00Z",
        "reprocess_behavior": "none", "max_active_runs": 10, "run_backwards": False,
        "dag_run_conf": {},
    }  # fmt: skip
    # SQLite takes one writer at a time, and Airflow refuses a backfill that meets another.
    until(lambda: client._http.post("/api/v2/backfills", json=body).is_success)
    client.trigger(BUSY, "by-hand", {"date": "2026-01-20"})
    yesterday = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=1)
    client.unpause(BUSY)
    most, deadline = 0, time.monotonic() + 800
    while True:
        assert time.monotonic() < deadline, begun(settings)
        # Read the started runs before the running ones, so no run in between is counted.
        turns = {turn.run_id for turn in begun(settings)}
        listed = list((client._call("GET", f"dags/{BUSY}/dagRuns") or {})["dag_runs"])
        running = {run["dag_run_id"] for run in listed if run["state"] == "running"}
        most = max(most, len(running))
        assert len(running & turns) <= 1, "two nights at once"
        if len(listed) == 4 and all(run["state"] == "failed" for run in listed):
            break
        time.sleep(0.5)
    # The name of a run gives its night, and its note gives its outcome. The schedule has started
    # the night of yesterday.
    nights = {"manual": "2026-01-20", "scheduled": str(yesterday)}
    for run in listed:
        night = nights.pop(run["run_type"], "") or run["logical_date"][:10]
        failed = f"🔴 Night of {night}: failed at sample: "
        assert run["note"].startswith(failed), run["note"]
        assert "no such folder" in run["note"]
        assert "[Page of the night](/plugin/nightbid/nightbid/runs/busy/" in run["note"]
    assert not nights
    assert most > 1, "Airflow itself runs them side by side"
    order = [turn.date for turn in begun(settings)]
    assert [date for date in order if date in NIGHTS] == NIGHTS
    assert len(order) == 4
