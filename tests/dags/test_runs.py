"""Airflow runs nights (`dag.test()`) with real stages and few rows."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from airflow.sdk.bases.notifier import BaseNotifier
from airflow.sdk.definitions.context import Context
from airflows import run_dag
from nightbid.config.settings import Settings
from nightbid.night.champion import ChampionPointer
from nightbid.night.record import RunRecord, runs_of
from nightbid.night.stages import NIGHT
from nightbid.storage.workspace import Workspace
from small_pipeline import WARNINGS_ONLY

ROOT = Path(__file__).resolve().parents[2]
NIGHT_OF = {"date": "2026-01-04"}
MANIFEST = "manifest.json"
ENDS_WELL = {"success", "skipped"}
"""The cost sensor is skipped: without a triggerer it would wait for itself."""
FRAMED = "/plugin/nightbid/nightbid/"
"""Address of our pages inside Airflow's frame."""
STOPS_AT_ONCE = {"raw": {"rows": {"stop": [1_000_000, None]}}}

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("airflow_database")]


def run_night(**conf: Any) -> dict[str, str | None]:
    """Run the small pipeline's DAG and return the states of its tasks and of the run."""
    return run_dag("nightly_small", **{**NIGHT_OF, **conf})


def newest_run() -> RunRecord:
    return runs_of(Workspace(Settings().workspace), "small")[-1]


class Bell(BaseNotifier):
    """A custom notifier."""

    rung: ClassVar[list[str]] = []

    def notify(self, context: Context) -> None:
        self.rung.append(context["nightbid"]["summary"])


def test_a_gate_that_stops_fails_the_night_and_nothing_after_it_runs(
    pipelines, webhook, monkeypatch
) -> None:
    address, messages = webhook
    monkeypatch.setenv("NIGHTBID_STOP_WEBHOOK", address)
    monkeypatch.setenv("NIGHTBID_PAGES", "https://airflow.example/")
    monkeypatch.setenv("NIGHTBID_STOP_NOTIFIER", f"{__name__}:Bell")
    pipelines(gates=STOPS_AT_ONCE)
    states = run_night()
    assert states["sample"] == "success"
    assert states["gate_raw"] == "failed"
    assert {states[stage.name] for stage in NIGHT[2:]} == {"upstream_failed"}
    assert states["report"] == "success"
    assert states["run"] == "failed"
    run = newest_run()
    assert {record.stage for record in run.records()} == {"sample", "gate_raw"}
    assert "rows" in run.stage("gate_raw").summary
    assert "gate_raw" in (run.folder / "report.html").read_text()
    (message,) = messages
    assert "small 2026-01-04: gate_raw stopped the night: rows" in message["text"]
    pages = "https://airflow.example/plugin/nightbid/nightbid"
    assert message["page"] == f"{pages}/runs/small/{run.run_id}"
    assert message["runbook"] == f"{pages}/checks/raw"
    assert message["serves"] == "nothing: there is no champion yet"
    assert Bell.rung == [message["summary"]]
    assert link_of("gate_raw") == f"{FRAMED}outputs/{run.stage('gate_raw').uri[7:]}"
    assert link_of("report") == f"{FRAMED}runs/small/{run.run_id}"


def link_of(task: str) -> str:
    """Return the address behind the button that Airflow shows for a finished task."""
    database = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].removeprefix("sqlite:///")
    query = "SELECT value FROM xcom WHERE key = '_link_PageLink' AND task_id = ?"
    with sqlite3.connect(database) as connection:
        rows = connection.execute(f"{query} ORDER BY timestamp", (task,)).fetchall()
    return str(json.loads(rows[-1][0]))


def test_a_missing_label_column_fails_without_a_retry(pipelines, caplog) -> None:
    pipelines(label={"column": "clicks"})
    states = run_night()
    assert states["sample"] == "failed", "not up_for_retry: the column will not appear by itself"
    assert newest_run().stage("sample") is None or "clicks" in newest_run().stage("sample").error


def test_a_night_promotes_a_champion_and_a_second_run_reuses_its_stages(
    pipelines, tmp_path, monkeypatch
) -> None:
    # The baseline's own architecture: neutral on any number of rows, and neutral is promoted.
    pipelines(model={"architecture": "logistic_regression"})
    store = tmp_path / "tracking.db"
    monkeypatch.setenv("NIGHTBID_TRACKING", f"sqlite:///{store}")
    assert set(run_night().values()) == ENDS_WELL
    first = newest_run()
    assert [record.stage for record in first.records()].count("train") == 1
    champion = ChampionPointer(first.workspace, "small").current()
    assert champion is not None
    assert champion.bundle_uri == first.stage("export").uri

    assert set(run_night().values()) == ENDS_WELL
    second = newest_run()
    assert second.run_id != first.run_id
    assert second.stage("evaluate").reused is False, "its reference is now the champion"
    for name in ("sample", "gate_raw", "featurize", "train", "train_baseline", "export"):
        assert second.stage(name).reused, name
        assert second.stage(name).uri == first.stage(name).uri
    with sqlite3.connect(store) as tracked:
        logged = tracked.execute("SELECT name, status FROM runs ORDER BY name").fetchall()
    assert logged == [(run.run_id, "FINISHED") for run in (first, second)]


def test_a_night_on_kuairand_succeeds_and_exceeds_an_auc_of_0_70(
    pipelines, kuairand_folder
) -> None:
    # The YAML that Nightbid ships, with fewer days. Its gates of data judge them; so few rows and
    # a busy machine prove nothing about a model.
    tree = yaml.safe_load((ROOT / "include/pipelines/kuairand_ctr.yaml").read_text())
    pipelines(**{
        **{key: tree[key] for key in tree if key != "pipeline"},
        "source": {**tree["source"], "folder": str(kuairand_folder)},
        "window": {"train_days": 2, "evaluate_days": 1},
        "evaluate": {"bootstrap": 50},
        "gates": {**tree["gates"], "overrides": [
            allowed for allowed in WARNINGS_ONLY["overrides"]
            if allowed["gate"] in ("model", "serving")
        ]},
        # So few rows need larger steps.
        "train": {**tree["train"], "epochs": 2, "learning_rate": 0.005, "refit": False},
    })  # fmt: skip
    assert set(run_night(date="2022-05-08").values()) == ENDS_WELL
    run = newest_run()

    def manifest(stage: str) -> dict:
        return json.loads((run.workspace.at(run.stage(stage).uri) / MANIFEST).read_text())

    figures = manifest("evaluate")["metrics"]
    assert figures["candidate"]["auc"] > max(0.70, figures["constant"]["auc"] + 0.1)
    assert figures["candidate"]["normalized_entropy"] < figures["constant"]["normalized_entropy"]
    assert manifest("evaluate")["rows"]["read"] > 10_000
    # 14 days repeat 5,840 rows; this night reads four of the days.
    assert manifest("sample")["rows"]["repeated"] > 1000
