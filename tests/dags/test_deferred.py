"""Airflow is killed and restarted while tasks are deferred, and each night continues."""

from __future__ import annotations

import contextlib
import datetime as dt
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflows import embedded
from emulator.installation import kill, until
from nightbid.audit import decisions
from nightbid.config.settings import Settings
from nightbid.config.sources import SimulatorSource
from nightbid.data.simulator.source import SimulatorLogs
from nightbid.data.write import write_day
from nightbid.night.attempts import APPROVE, ARRIVAL, StageRecord
from nightbid.night.champion import ChampionPointer
from nightbid.night.record import RunRecord, safe_run_id, state_of
from nightbid.storage.workspace import Workspace

DAG, WAITS = "nightly_small", "waits-for-logs"
ASKS = "awaiting_input"
"""State in Airflow 3.3 of a task that waits for a person without a triggerer."""
STOPS = ["gates.overrides=[]", "gates.raw.rows.stop=[1000000,null]"]
"""With these settings, a night stops at its raw gate."""
TODAY = dt.datetime.now(dt.UTC).date()


def back(days: int) -> dt.date:
    return TODAY - dt.timedelta(days=days)


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Write the newest days; today has no marker."""
    folder = tmp_path / "logs"
    simulator = SimulatorLogs(SimulatorSource(rows_per_day=1500, users=200, ads=50))
    for days in range(7):
        write_day(simulator.batches(back(days)), folder, back(days))
        if days:
            (folder / f"dt={back(days)}" / "_SUCCESS").touch()
    return folder


class Nights:
    """Starts and follows nights of the pipeline in one Airflow."""

    def __init__(self, airflow: Any) -> None:
        self.client = airflow.client
        self.database = airflow.home.folder / "airflow.db"

    def backfill(self, night: dt.date, overrides: list[str]) -> str:
        """Request one night again and return the id of its run."""
        body = {
            "dag_id": DAG, "from_date": f"{night}T00:00:00Z", "to_date": f"{night}T23:00:00Z",
            "reprocess_behavior": "none", "max_active_runs": 1, "run_backwards": False,
            "dag_run_conf": {"overrides": overrides},
        }  # fmt: skip
        before = set(self.runs())
        # Airflow takes one backfill of a DAG at a time, and looks only every 30 s for those that
        # have ended.
        with contextlib.closing(sqlite3.connect(self.database, timeout=300)) as database, database:
            database.execute("UPDATE backfill SET completed_at = created_at")
        # SQLite takes one writer at a time.
        until(lambda: self.client._http.post("/api/v2/backfills", json=body).is_success, 300)
        (run,) = set(self.runs()) - before
        return run

    def runs(self) -> list[str]:
        dag_runs = self.client._call("GET", f"dags/{DAG}/dagRuns")["dag_runs"]
        return [run["dag_run_id"] for run in dag_runs]

    def state(self, run: str, task: str) -> str:
        return {
            task_instance.name: task_instance.state for task_instance in self.client.tasks(DAG, run)
        }[task]

    def wait(self, run: str, task: str, state: str) -> None:
        def is_there() -> bool:
            now = self.state(run, task)
            assert now == state or now not in ("failed", "upstream_failed"), (run, task, now)
            return now == state

        until(is_there, 400)

    def end(self, run: str) -> str:
        until(lambda: self.has_ended(run), 400)
        return str(self.client.run_state(DAG, run))

    def clear(self, run: str, *tasks: str) -> None:
        body = {"task_ids": tasks, "dag_run_id": run, "dry_run": False, "only_failed": False}
        path = f"/api/v2/dags/{DAG}/clearTaskInstances"
        # SQLite takes one writer at a time.
        until(lambda: self.client._http.post(path, json=body).is_success)

    def has_ended(self, run: str) -> bool:
        return self.client.run_state(DAG, run) in ("success", "failed")

    def answer(self, run: str, said: str) -> None:
        if self.state(run, APPROVE) != ASKS:
            return
        path = f"/api/v2/dags/{DAG}/dagRuns/{run}/taskInstances/{APPROVE}/-1/hitlDetails"
        answer = {"chosen_options": [said], "params_input": {}}
        # SQLite takes one writer at a time.
        until(lambda: self.client._http.patch(path, json=answer).status_code in (200, 409))


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_deferred_tasks_survive_a_kill_and_cleared_stages_wait_their_turn(
    pipelines: Callable[..., Path],
    logs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from nightbid_airflow.embedded.home import Home

    # Each poll of each waiting task takes CPU time from the others.
    monkeypatch.setenv("NIGHTBID_POLL_SECONDS", "1")
    pipelines(
        schedule="0 0 * * *",
        source={"kind": "parquet", "folder": str(logs)},
        columns={},
        features={"device_type": "vocabulary"},
        # The baseline's own: neutral on any number of rows, and neutral is promoted.
        model={"architecture": "logistic_regression"},
        arrival={"marker": "_SUCCESS", "every_seconds": 1, "deadline": "23:59"},
        approval=True,
    )
    home, settings = Home(tmp_path / "airflow"), Settings()
    workspace = Workspace(settings.workspace)

    def record(run_id: str, stage: str) -> StageRecord:
        stage_record = RunRecord.load(workspace, "small", safe_run_id(run_id)).stage(stage)
        assert stage_record is not None
        return stage_record

    with embedded(home, settings) as airflow:
        nights = Nights(airflow)
        until(lambda: airflow.client.has_dag(DAG))
        airflow.client.trigger(DAG, WAITS, {"date": str(TODAY), "overrides": STOPS})
        stopped = nights.backfill(back(3), STOPS)
        airflow.client.unpause(DAG)
        # A night that waits for its logs blocks no other night.
        assert nights.end(stopped) == "failed"
        asked = nights.backfill(back(1), [])
        nights.wait(WAITS, ARRIVAL, "deferred")
        nights.wait(asked, APPROVE, ASKS)
        nights.clear(stopped, "gate_raw")
        nights.wait(stopped, "gate_raw", "deferred")
        kill(airflow)
    (logs / f"dt={TODAY}" / "_SUCCESS").touch()

    with embedded(home, settings) as airflow:
        nights = Nights(airflow)
        assert nights.state(stopped, "gate_raw") == "deferred"
        assert nights.state(asked, APPROVE) == ASKS
        # The attempt fails between the answer and its record: no second question follows.
        run_file = workspace.run_folder("small", safe_run_id(asked)) / "run.json"
        hidden = run_file.rename(run_file.with_suffix(".hidden"))
        nights.answer(asked, "Reject")
        nights.wait(asked, APPROVE, "up_for_retry")
        hidden.rename(run_file)
        assert nights.end(asked) == "success"
        assert nights.state(asked, "promote") == "skipped"
        rejection = record(asked, APPROVE)
        assert rejection.summary == "not promoted: rejected by admin"
        run = RunRecord.load(workspace, "small", safe_run_id(asked))
        newest = {stage_record.stage: stage_record for stage_record in run.records()}
        assert state_of(run.head, newest) == ("stopped", APPROVE)
        assert ChampionPointer(workspace, "small").current() is None
        # The gate judges both after the night that was running, and stops them.
        assert nights.end(WAITS) == nights.end(stopped) == "failed"
        # A cleared question is asked again.
        nights.clear(asked, APPROVE, "promote")
        nights.wait(asked, APPROVE, ASKS)
        nights.answer(asked, "Approve")
        assert nights.end(asked) == "success"

    assert record(asked, APPROVE).summary == "approved by admin"
    champion = ChampionPointer(workspace, "small").current()
    assert champion is not None
    assert champion.run_id == safe_run_id(asked)
    answers = [each.what for each in decisions(workspace, "small") if each.by == "admin"]
    name = safe_run_id(asked)
    assert answers == [f"keep back {name}", f"approve {name}", f"promote #1: {name} serves"]
    assert record(WAITS, ARRIVAL).verdict == "pass"
    for run_id in (WAITS, stopped):
        judged = record(run_id, "gate_raw")
        assert judged.state == "stopped"
        assert judged.started > rejection.started
