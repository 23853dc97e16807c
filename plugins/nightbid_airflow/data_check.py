"""`nightbid data check` as a DAG: a form takes a folder, and a page shows what was found."""

from __future__ import annotations

import datetime as dt
from typing import Any

from airflow.sdk import DAG, BaseOperator, Param
from airflow.sdk.definitions.context import Context
from airflow.sdk.exceptions import AirflowFailException
from nightbid.config.settings import Settings
from nightbid.night.record import safe_run_id
from nightbid.storage.workspace import Workspace

from nightbid_airflow.current_code import with_current_code
from nightbid_airflow.operators import FINAL
from nightbid_airflow.page_links import data_check_page

FORM = {
    "folder": Param(
        "", type="string", minLength=1, maxLength=1000, title="Folder of logs",
        description="Address as the workers see it: a path, gs://…, s3://… or bq://….",
    ),
    "pipeline": Param(
        "", type="string", pattern="^([a-z][a-z0-9_]{0,39})?$", title="Name of the pipeline",
        description="Name of the draft. Empty: derived from the folder's name.",
    ),
}  # fmt: skip


@with_current_code
def data_check_dag() -> DAG:
    """Make the DAG: one task, triggered manually."""
    with DAG(
        dag_id="data_check",
        description="Inspect a folder of logs and draft a pipeline for it",
        doc_md="Finds days, columns, roles, labels, outcomes and clocks of a folder of logs, and"
        " drafts a pipeline YAML with its reasons. The *Nightbid* tab shows the result. Nothing "
        "else is written.",
        schedule=None,
        start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        catchup=False,
        tags=["nightbid", "data"],
        params=FORM,
        default_args={"owner": "ads-ml"},
    ) as dag:
        DataCheckOperator(task_id="look")
    return dag


class DataCheckOperator(BaseOperator):
    """Inspects the folder that the form names."""

    ui_color = "#e8f0fe"

    def execute(self, context: Context) -> dict[str, Any]:
        """Inspect the folder; the XCom is the URL of the page and the roles without a column.

        Raises:
            AirflowFailException: The folder does not exist or cannot be read as logs.
        """
        from nightbid.data_check.check import check_folder
        from nightbid.data_check.saved import save_check

        params, settings, run = context["params"], Settings(), context["dag_run"]
        try:
            report = check_folder(params["folder"], settings.cache, params["pipeline"])
        except FINAL as error:
            raise AirflowFailException(str(error)) from None
        name = safe_run_id(run.run_id)
        by = run.triggering_user_name or ""
        check = save_check(Workspace(settings.workspace), name, params["folder"], report, by)
        page = data_check_page(name)
        self.log.info("a first pipeline:\n%s", check.report["yaml"])
        self.log.info("%s; missing roles: %s", page, ", ".join(check.missing) or "none")
        return {"page": page, "missing": sorted(check.missing)}
