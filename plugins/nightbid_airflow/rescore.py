"""Scoring of an older model on a newer night's rows, for the page that compares runs."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from airflow.sdk import DAG, BaseOperator, Param
from airflow.sdk.definitions.context import Context
from airflow.sdk.exceptions import AirflowFailException
from nightbid.config.settings import Settings
from nightbid.errors import NightbidError
from nightbid.night.progress import LogProgress
from nightbid.night.record import RunRecord, safe_run_id
from nightbid.storage.workspace import Workspace

from nightbid_airflow.current_code import with_current_code


@with_current_code
def rescore_dag(pipelines: Sequence[str]) -> DAG:
    """Make the DAG: one for all pipelines, triggered from a page or manually."""
    with DAG(
        dag_id="same_rows",
        description="Score the older of two models on the rows of the newer night",
        doc_md="The *Compare* page pairs two runs row by row. If they were evaluated on "
        "different rows, this DAG first scores the older model on the newer night's rows."
        " In a shell: `nightbid compare PIPELINE RUN RUN --same-rows`.",
        schedule=None,
        start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=False,
        tags=["nightbid", "compare"],
        params={
            "pipeline": Param(pipelines[0], type="string", enum=[*pipelines], title="Pipeline"),
            "runs": Param(
                ["", ""], type="array", items={"type": "string"}, minItems=2, maxItems=2,
                title="Two runs", description="One run id per line, as listed in *Nights*.",
            ),
        },
        default_args={"owner": "ads-ml", "retries": 0},
    ) as dag:  # fmt: skip
        RescoreOperator(task_id="score")
    return dag


class RescoreOperator(BaseOperator):
    """Scores the model of the older run on the evaluate rows of the newer run."""

    def execute(self, context: Context) -> int:
        """Score, and store the scores in the workspace; the XCom is the number of rows.

        Raises:
            AirflowFailException: A retry cannot help; the message says what is wrong.
        """
        from nightbid.evaluation.rescore import rescore
        from nightbid.report.comparison import older_and_newer

        workspace = Workspace(Settings().workspace)
        params = context["params"]
        try:
            one, two = (
                RunRecord.load(workspace, params["pipeline"], safe_run_id(name))
                for name in params["runs"]
            )
            older, newer = older_and_newer(one, two)
            rows = rescore(older, newer, LogProgress("score"))
        except NightbidError as error:
            raise AirflowFailException(str(error)) from None
        self.log.info("%s is scored on %s rows of %s", older.run_id, f"{rows:,}", newer.run_id)
        return rows
