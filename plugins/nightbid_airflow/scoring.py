"""Batch scoring as a DAG, triggered when a champion is promoted, or manually with a date."""

from __future__ import annotations

import datetime as dt
import logging
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Asset, AssetAlias, BaseOperator
from airflow.sdk.definitions.context import Context
from airflow.sdk.exceptions import AirflowFailException
from nightbid.config.load import find_pipeline, pipeline_names
from nightbid.config.pipeline import PipelineSpec
from nightbid.config.settings import Settings
from nightbid.errors import NightbidError
from nightbid.night.champion import ChampionPointer
from nightbid.night.progress import LogProgress
from nightbid.partitions import partition_of
from nightbid.storage.workspace import Workspace
from pydantic import JsonValue

from nightbid_airflow.current_code import with_current_code
from nightbid_airflow.parsing import is_needed
from nightbid_airflow.request import date_field

log = logging.getLogger(__name__)


def champion_asset(pipeline: str) -> Asset:
    """Get the asset that a promotion of a pipeline updates; any DAG can be scheduled by it."""
    return Asset(name=f"champion_{pipeline}", uri=f"nightbid://champion/{pipeline}")


def data_assets(pipeline: str, stage: str) -> list[Asset]:
    """Get the assets that a stage updates for other DAGs: the sampled rows, or the model inputs."""
    kind = {"sample": "rows", "featurize": "features"}.get(stage)
    if kind is None:
        return []
    return [Asset(name=f"{kind}_{pipeline}", uri=f"nightbid://{kind}/{pipeline}")]


def promotions(pipeline: str) -> AssetAlias:
    """Get the alias of the champion's asset; a night that keeps the champion updates nothing."""
    return AssetAlias(name=f"promotions_{pipeline}")


def publish(pipeline: str, context: Context) -> None:
    """Add an asset event with the promoted champion: number, digest, run and night."""
    champion = ChampionPointer(Workspace(Settings().workspace), pipeline).current()
    if champion is None:
        return
    extra: dict[str, JsonValue] = {
        "pipeline": pipeline,
        "number": champion.number,
        "bundle": champion.bundle_digest,
        "run_id": champion.run_id,
        "night": champion.night.isoformat(),
    }
    context["outlet_events"][promotions(pipeline)].add(champion_asset(pipeline), extra=extra)


class ScoreOperator(BaseOperator):
    """Scores a day of the logs with the champion, in the task's process.

    Args:
        pipeline: Name of the pipeline.
    """

    ui_color = "#e6f4ea"

    def __init__(self, *, pipeline: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.pipeline = pipeline

    def execute(self, context: Context) -> dict[str, Any]:
        """Score the requested day, by default the newest day of the champion's night.

        Raises:
            AirflowFailException: A retry cannot help; the message says what to do.
        """
        from nightbid.serving.score_stage import score_day

        from nightbid_airflow.operators import FINAL

        settings = Settings()
        date = context["params"].get("date")
        try:
            champion, output = score_day(
                Workspace(settings.workspace),
                self.pipeline,
                partition_of(date) if date else None,
                cache_folder=settings.cache,
                trigger="airflow",
                progress=LogProgress("score"),
            )
        except FINAL as error:
            raise AirflowFailException(str(error)) from None
        self.log.info("champion #%d: %s", champion.number, output.manifest.summary)
        return {
            "uri": f"{output.uri}/scores",
            "champion": champion.number,
            "bundle": champion.bundle_digest,
            "rows": output.manifest.rows.written,
        }


def score_dag(spec: PipelineSpec) -> DAG:
    """Make the DAG that scores the newest day whenever a champion is promoted."""
    with DAG(
        dag_id=_dag_id(spec.pipeline),
        description=f"Score a day of logs with the champion of {spec.pipeline}",
        doc_md=f"Starts when a champion of `{spec.pipeline}` is promoted (asset"
        f" `champion_{spec.pipeline}`), or by hand with a date. Writes Parquet with a "
        "probability per row to the workspace; the XCom contains the path.",
        schedule=[champion_asset(spec.pipeline)],
        start_date=dt.datetime.combine(spec.start_date, dt.time(), dt.UTC),
        catchup=False,
        max_active_runs=1,
        tags=["nightbid", spec.pipeline, "scoring"],
        params={
            "date": date_field(
                spec, "Day", "Day of logs. Empty: the newest day of the champion's night."
            )
        },
        default_args={"owner": spec.owner, "retries": 1},
    ) as dag:
        ScoreOperator(task_id="score", pipeline=spec.pipeline)
    return dag


@with_current_code
def score_dags(folder: Path) -> dict[str, DAG]:
    """Make a scoring DAG per valid pipeline YAML; a broken one shows only as its nightly DAG.

    In the process of a task, only the DAG of the task is made.
    """
    dags = {}
    for name in pipeline_names(folder):
        if not is_needed(_dag_id(name)):
            continue
        try:
            dag = score_dag(find_pipeline(name, folder))
        except NightbidError as error:
            log.warning("no scoring DAG: %s", error)
            continue
        dags[dag.dag_id] = dag
    return dags


def _dag_id(pipeline: str) -> str:
    return f"score_{pipeline}"
