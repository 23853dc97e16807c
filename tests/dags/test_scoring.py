"""Promotions publish an asset that starts the scoring DAG."""

from __future__ import annotations

from pathlib import Path

from airflow.dag_processing.dagbag import DagBag

DAGS = Path(__file__).resolve().parents[2] / "dags"


def test_scoring_dag_is_scheduled_on_the_champion_asset_of_its_pipeline(pipelines) -> None:
    pipelines()
    pipelines("broken", text="pipeline: [")
    bag = DagBag(str(DAGS), bundle_path=DAGS, bundle_name="dags-folder")
    assert not bag.import_errors
    assert "score_broken" not in bag.dags
    dag = bag.dags["score_small"]
    (asset,) = dag.timetable.asset_condition.objects
    assert asset.uri == "nightbid://champion/small"
    (alias,) = bag.dags["nightly_small"].get_task("promote").outlets
    assert alias.name == "promotions_small"
    assert dag.max_active_runs == 1
    assert set(dag.params) == {"date"}
