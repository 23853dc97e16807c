"""Upgrade rehearsals as DAGs: one task with a form, and a weekly DAG that proposes upgrades."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, BaseOperator, Param
from airflow.sdk.definitions.context import Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from nightbid.config.settings import Settings
from nightbid.night.record import safe_run_id
from nightbid.storage.workspace import Workspace

from nightbid_airflow.current_code import with_current_code
from nightbid_airflow.operators import CHATTY, FINAL

LOCK = Path(__file__).resolve().parents[2] / "requirements.txt"
"""Lock file that this installation was built from."""
PIN = r"^[A-Za-z0-9][A-Za-z0-9._-]*(==[A-Za-z0-9.+!-]+| @ \S+)$"


def form(pipelines: Sequence[str]) -> dict[str, Param]:
    """Get the fields of the trigger form."""
    return {
        "pipeline": Param(pipelines[0], type="string", enum=[*pipelines], title="Pipeline"),
        "upgrade": Param(
            [], type="array", items={"type": "string", "pattern": PIN}, title="Packages",
            description="One per line: `lightgbm==4.5.0`. The lock is resolved with them.",
        ),
        "requirements": Param(
            "", type="string", title="Candidate lock",
            description="Path of a whole lock file on the worker, instead of single packages.",
        ),
        "run_id": Param("", type="string", title="Run",
                        description="Night that supplies the rows. Empty: the newest."),
        "seeds": Param(5, type="integer", minimum=2, maximum=50, title="Seeds under each lock"),
        "margin": Param(None, type=["null", "number"], exclusiveMinimum=0, title="Margin",
                        description="In normalized entropy. Empty: evaluate.margin_ne."),
        "latency": Param(True, type="boolean", title="Load tests"),
        "bisect": Param(True, type="boolean", title="Find the packages that cause a change"),
        "budget_usd": Param(None, type=["null", "number"], exclusiveMinimum=0,
                            title="Budget, USD at cloud prices"),
        "minutes": Param(None, type=["null", "number"], exclusiveMinimum=0,
                         title="Minutes after which no new bisection step starts"),
        "name": Param("", type="string", pattern="^[A-Za-z0-9._-]{0,80}$", title="Name",
                      description="Name of an earlier rehearsal, to resume it. Empty: a new one."),
    }  # fmt: skip


@with_current_code
def rehearsal_dag(pipelines: Sequence[str]) -> DAG:
    """Make the DAG: one for all pipelines, triggered manually."""
    with DAG(
        dag_id="upgrade_rehearsal",
        description="Compare other versions of the pinned packages with the present ones",
        doc_md="Trains and serves the same frozen rows with the same seeds under the present and "
        "a candidate lock. Compares both, and finds the packages that cause a change. A verdict of"
        " *not safe* fails the task. A retry resumes where the task was killed.",
        schedule=None,
        start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        catchup=False,
        tags=["nightbid", "upgrade"],
        params=form(pipelines),
        default_args={"owner": "ads-ml", "retries": 1, "retry_delay": dt.timedelta(seconds=10)},
    ) as dag:
        RehearseOperator(task_id="rehearse")
    return dag


@with_current_code
def proposal_dag(pipelines: Sequence[str]) -> DAG:
    """Make the DAG that rehearses the newest versions once a week and proposes them."""
    params = form(pipelines)
    for name in ("upgrade", "requirements", "name"):
        del params[name]
    with DAG(
        dag_id="upgrade_proposal",
        description="Rehearse the newest versions that requirements.in allows",
        doc_md="Once a week: resolves `requirements.in` to the newest versions it allows and"
        " rehearses them. The workspace contains the report and `candidate.txt`, the lock to "
        "adopt. *not safe* does not fail the task, because nothing was upgraded.",
        schedule="@weekly",
        start_date=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=True,
        tags=["nightbid", "upgrade"],
        params=params,
        default_args={"owner": "ads-ml", "retries": 1, "retry_delay": dt.timedelta(minutes=5)},
    ) as dag:
        RehearseOperator(task_id="rehearse", newest=True)
    return dag


class RehearseOperator(BaseOperator):
    """Rehearses the upgrade that the form describes.

    Args:
        newest: Whether to rehearse the newest versions that `requirements.in` allows. The verdict
            *not safe* is then a result, not a failure of the task.
    """

    ui_color = "#f3e8fd"

    def __init__(self, *, newest: bool = False, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.newest = newest

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the rehearsal; the XCom is its verdict, causes and the address of the report.

        Raises:
            AirflowSkipException: There are no newer versions.
            AirflowFailException: The form is invalid, the budget is used up, or the upgrade is not
                safe.
        """
        from nightbid.rehearse.locks import Lock
        from nightbid.rehearse.planning import candidate_lock, plan_rehearsal
        from nightbid.rehearse.rehearsal import Rehearsal

        for name in CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
        params: dict[str, Any] = dict(context["params"])
        settings, budget = Settings(), params["budget_usd"]
        try:
            requirements = Path(params["requirements"]) if params.get("requirements") else None
            upgrades = tuple(params.get("upgrade") or ())
            plan = plan_rehearsal(
                params["pipeline"],
                settings,
                present=Lock.read(LOCK),
                candidate=candidate_lock(requirements, upgrades, LOCK, newest=self.newest),
                run_id=params["run_id"],
                seeds=params["seeds"],
                margin=params["margin"],
                latency=params["latency"],
                bisect=params["bisect"],
                budget_usd=None if budget is None else Decimal(str(budget)),
                minutes=params["minutes"],
                name=params.get("name") or safe_run_id(f"rehearsal-{context['dag_run'].run_id}"),
            )
            if self.newest and not plan.changes:
                raise AirflowSkipException("requirements.in allows nothing newer")
            rehearsal = Rehearsal(plan, settings, self.log.info)
            report = rehearsal.run()
        except FINAL as error:
            raise AirflowFailException(str(error)) from None
        page = str(rehearsal.report_folder / "rehearsal.html")
        causes = {cause.kind: list(cause.packages) for cause in report.causes}
        self.log.info("%s; causes: %s; %s", report.sentence, causes or "none", page)
        if report.verdict == "not safe" and not self.newest:
            raise AirflowFailException(f"{report.sentence}; causes: {causes}; report: {page}")
        uri = page.removeprefix(str(Workspace(settings.workspace).root)).lstrip("/")
        return {"verdict": report.verdict, "causes": causes, "uri": uri}
