"""The Python API for notebooks reads what a run has recorded."""

from __future__ import annotations

import subprocess
import sys

import nightbid
import pytest
from nightbid.cost.money import Money
from nightbid.errors import ConfigError, StageError
from nightbid.night.champion import ChampionPointer


def test_a_finished_run_has_metrics_stages_and_cost(recorded_run):
    root = str(recorded_run().workspace.root)
    run = nightbid.Run("ctr", "ctr-2026-01-20", workspace=root)
    assert run.state == "done"
    assert run.night.isoformat() == "2026-01-20"
    assert run.metrics["auc"] == 0.7312
    assert run.evaluation["verdict"] == "better"
    assert run.stages["train"].metrics["architecture"] == "dcn_v2"
    assert run.stages["gate_raw"].verdict == "warn"
    assert run.spec.budget.run_usd == 5
    assert run.cost.currency == "USD"
    assert run.cost.amount > 0
    assert repr(run) == "Run('ctr', 'ctr-2026-01-20') 2026-01-20 done"


def test_the_workspace_defaults_to_that_of_the_settings(recorded_run, monkeypatch):
    root = str(recorded_run().workspace.root)
    monkeypatch.setenv("NIGHTBID_WORKSPACE", root)
    (run,) = nightbid.Run.all("ctr")
    assert run.metrics == nightbid.Run("ctr", run.run_id, workspace=root).metrics


def test_a_failed_run_has_no_metrics_and_says_why(recorded_run):
    record = recorded_run(until="train", error="train: out of memory")
    run = nightbid.Run("ctr", record.run_id, workspace=record.workspace)
    assert run.state == "failed"
    assert run.stages["train"].summary == "train: out of memory"
    assert run.stages["train"].metrics == {}
    with pytest.raises(StageError, match="is failed and has no evaluation"):
        _ = run.metrics
    assert isinstance(run.cost, Money)


def test_the_champion_is_the_run_that_serves(recorded_run):
    record = recorded_run()
    assert nightbid.Run.champion("ctr", workspace=record.workspace) is None
    ChampionPointer(record.workspace, "ctr").promote(
        run_id=record.run_id, night=record.date, bundle_uri="x", bundle_digest="d", reason="better"
    )
    champion = nightbid.Run.champion("ctr", workspace=record.workspace)
    assert champion is not None
    assert champion.run_id == record.run_id


def test_an_unknown_run_is_reported_in_one_line(recorded_run):
    workspace = recorded_run().workspace
    with pytest.raises(ConfigError, match="no run 'other' of pipeline 'ctr'"):
        nightbid.Run("ctr", "other", workspace=workspace)


@pytest.mark.slow
def test_importing_nightbid_does_not_import_the_api():
    code = "import nightbid, sys; assert 'nightbid.api' not in sys.modules; nightbid.Run"
    subprocess.run([sys.executable, "-c", code], check=True)
