"""A rehearsal is logged to experiment tracking with its verdict, metrics and report."""

from __future__ import annotations

import datetime as dt
import shutil
from decimal import Decimal
from pathlib import Path

import pytest
from nightbid.config.settings import Settings
from nightbid.rehearse.bisect import Cause
from nightbid.rehearse.findings import RehearsalFinding
from nightbid.rehearse.plan import RehearsalPlan
from nightbid.rehearse.report import RehearsalReport, report_folder
from nightbid.rehearse.tracked import track
from nightbid.storage.workspace import Workspace


@pytest.mark.usefixtures("preloaded_python")
def test_a_rehearsal_is_logged_to_mlflow_with_verdict_causes_and_report(
    tmp_path: Path, mlflow_database: Path
) -> None:
    from mlflow.tracking import MlflowClient

    report = RehearsalReport(
        plan=RehearsalPlan(
            name="try-numpy", pipeline="ctr", date=dt.date(2026, 1, 8), frozen="rows", seeds=5,
            first_seed=0, margin=0.002, present={"numpy": "==2.4.6"},
            candidate={"numpy": "==2.3.5"},
        ),
        changes=("numpy 2.4.6 → 2.3.5",),
        verdict="not safe",
        findings=(RehearsalFinding(kind="metrics", subject="auc", text="auc differs", grave=True),),
        causes=(Cause(kind="metrics", packages=("numpy 2.4.6 → 2.3.5",), steps=1, finished=True),),
        compared={"training": {"mean": 0.001, "low": -0.001, "high": 0.003}},
        cost_usd=Decimal("0.05"),
        seconds=60,
        created=dt.datetime(2026, 1, 9, tzinfo=dt.UTC),
    )  # fmt: skip
    workspace = Workspace(str(tmp_path / "workspace"))
    (tmp_path / "workspace" / "tracking").mkdir(parents=True)
    shutil.copy(mlflow_database, tmp_path / "workspace" / "tracking" / "mlflow.db")
    folder = report_folder(workspace, report.plan)
    folder.mkdir(parents=True)
    (folder / "rehearsal.html").write_text("<p>not safe")
    settings = Settings(workspace=str(workspace.root), tracking=None)
    assert track(report, workspace, settings).state == "logged"

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/workspace/tracking/mlflow.db")
    experiment = client.get_experiment_by_name("rehearsals")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["numpy"] == "==2.4.6 → ==2.3.5"
    assert run.data.tags["verdict"] == "not safe"
    assert run.data.tags["causes"] == "numpy 2.4.6 → 2.3.5"
    assert run.data.metrics["normalized_entropy_difference_high"] == 0.003
    assert [artifact.path for artifact in client.list_artifacts(run.info.run_id)] == [
        "rehearsal.html"
    ]
