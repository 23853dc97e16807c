"""One Airflow with schedules: nights that start together take turns; a promotion starts scoring.

The tests share the Airflow; each has its own pipeline.
"""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
from airflows import embedded
from emulator.installation import until
from nightbid.config.settings import Settings
from nightbid.night.champion import ChampionPointer
from nightbid.night.sealed import unseal
from nightbid.night.turns import Turn
from nightbid.storage.workspace import Workspace

NIGHTLY, SCORE, BUSY, RUN = "nightly_small", "score_small", "nightly_busy", "first"
NIGHTS = [dt.date(2026, 1, 8) + dt.timedelta(days=day) for day in range(3)]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def airflow(
    shared_pipelines: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """Start an Airflow with schedules; without them, it creates no runs, not even for assets."""
    from nightbid_airflow.embedded.home import Home

    # The baseline's own architecture: neutral on any number of rows, and neutral is promoted.
    shared_pipelines(model={"architecture": "logistic_regression"})
    # There are no logs: every night ends at its first stage, once it may run.
    folder = tmp_path_factory.mktemp("scheduled")
    none = {"kind": "parquet", "folder": str(folder / "none")}
    shared_pipelines("busy", schedule="0 0 * * *", source=none)
    with embedded(Home(folder / "airflow"), Settings(), schedules=True) as running:
        until(lambda: all(map(running.client.has_dag, (NIGHTLY, SCORE, BUSY))))
        yield running


def runs(airflow: Any, dag: str) -> list[dict[str, Any]]:
    return list((airflow.client._call("GET", f"dags/{dag}/dagRuns") or {})["dag_runs"])


def begun() -> list[Turn]:
    folder = Path(Settings().workspace) / "turns" / "busy" / "begun"
    return [unseal(Turn, path.read_bytes(), path, "") for path in sorted(folder.glob("*.json"))]


@pytest.mark.timeout(1200)
def test_backfilled_manual_and_scheduled_nights_run_one_at_a_time(airflow: Any) -> None:
    client = airflow.client
    body = {
        "dag_id": BUSY, "from_date": "2026-01-08T00:00:00Z", "to_date": "2026-01-10T23:00:00Z",
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
        assert time.monotonic() < deadline, begun()
        # Read the started runs before the running ones, so no run in between is counted.
        turns = {turn.run_id for turn in begun()}
        listed = runs(airflow, BUSY)
        running = {run["dag_run_id"] for run in listed if run["state"] == "running"}
        most = max(most, len(running))
        assert len(running & turns) <= 1, "two nights at once"
        if len(listed) == 5 and all(run["state"] == "failed" for run in listed):
            break
        time.sleep(0.5)
    # The name of a run gives its night, and its note gives its outcome. The schedule has started
    # the night of yesterday.
    nights = {"manual": "2026-01-20", "scheduled": str(yesterday)}
    for run in listed:
        night = nights.pop(run["run_type"], "") or run["logical_date"][:10]
        # The folder of the logs is missing: there is no record of the stage yet.
        assert run["note"].startswith(f"🔴 Night of {night}: the run ended before"), run["note"]
        assert "[Page of the night](/plugin/nightbid/nightbid/runs/busy/" in run["note"]
    assert not nights
    assert most > 1, "Airflow itself runs them side by side"
    order = [turn.date for turn in begun()]
    assert [date for date in order if date in NIGHTS] == NIGHTS
    assert len(order) == 5


@pytest.mark.timeout(1500)
def test_a_promotion_starts_the_scoring_dag(airflow: Any) -> None:
    from nightbid_airflow.embedded.client import ENDED

    client = airflow.client
    client.unpause(NIGHTLY)
    client.unpause(SCORE)
    client.trigger(NIGHTLY, RUN, {"date": "2026-01-04"})
    until(lambda: client.run_state(NIGHTLY, RUN) in ENDED, 900)
    assert client.run_state(NIGHTLY, RUN) == "success", client.tasks(NIGHTLY, RUN)
    until(lambda: any(run["state"] in ENDED for run in runs(airflow, SCORE)), 300)
    (run,) = runs(airflow, SCORE)
    events = (client._call("GET", "assets/events") or {})["asset_events"]
    (event,) = (event for event in events if "champion" in event["uri"])
    workspace = Workspace(Settings().workspace)
    champion = ChampionPointer(workspace, "small").current()
    assert champion is not None
    assert (run["state"], run["run_type"]) == ("success", "asset_triggered")
    assert event["name"] == "champion_small"
    assert event["extra"] == {
        "pipeline": "small",
        "number": champion.number,
        "bundle": champion.bundle_digest,
        "run_id": RUN,
        "night": "2026-01-04",
    }
    scored = Path(Settings().workspace) / "stages" / "small" / "score"
    (manifest,) = scored.glob("*/manifest.json")
    rows = json.loads(manifest.read_text())["rows"]["written"]
    files = sorted((manifest.parent / "scores").rglob("*.parquet"))
    assert ds.dataset(files).count_rows() == rows > 0
