"""Airflow's own login and permissions, as dependencies of the pages.

Airflow serves a plugin's application without authentication, so all routes depend on `CurrentUser`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.base_auth_manager import BaseAuthManager
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import get_user
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from airflow.utils.types import DagRunTriggeredByType
from fastapi import Depends
from nightbid.errors import ConfigError, NightbidError
from nightbid.night.record import safe_run_id
from sqlalchemy import select


class CurrentUser:
    """The user who is logged in, and their permissions on the DAGs of pipelines."""

    def __init__(self, user: Annotated[BaseUser, Depends(get_user)]) -> None:
        self._user = user

    def may_read(self, pipeline: str) -> bool:
        """Whether Airflow lets the user read runs of the pipeline's DAG."""
        return self.may_read_dag(f"nightly_{pipeline}")

    def may_read_dag(self, dag: str) -> bool:
        """Whether Airflow lets the user read runs of a DAG."""
        manager: BaseAuthManager[BaseUser] = get_auth_manager()
        return manager.is_authorized_dag(
            method="GET",
            access_entity=DagAccessEntity.RUN,
            details=DagDetails(id=dag, team_name=DagModel.get_team_name(dag)),
            user=self._user,
        )

    @property
    def name(self) -> str:
        """Name of the user, as the histories record it."""
        return str(self._user.get_name())

    def may_edit(self, pipeline: str) -> bool:
        """Whether Airflow lets the user edit the pipeline's DAG, and so act on its nights."""
        dag = f"nightly_{pipeline}"
        manager: BaseAuthManager[BaseUser] = get_auth_manager()
        return manager.is_authorized_dag(
            method="PUT",
            details=DagDetails(id=dag, team_name=DagModel.get_team_name(dag)),
            user=self._user,
        )

    def readable(self, pipelines: Iterable[str]) -> list[str]:
        """List the given pipelines that the user may read."""
        return [name for name in pipelines if self.may_read(name)]


Login = Annotated[CurrentUser, Depends()]


def dag_runs(pipeline: str) -> dict[str, str]:
    """Map each run id of a pipeline in the records to its run id in Airflow."""
    with create_session() as session:
        run_ids = session.scalars(
            select(DagRun.run_id).where(DagRun.dag_id == f"nightly_{pipeline}")
        ).all()
    return {safe_run_id(name): name for name in run_ids}


def rerun_failed(pipeline: str, run_id: str) -> str:
    """Clear the failed tasks of a DAG run, and the tasks that accompany every night.

    Args:
        pipeline: Name of the pipeline.
        run_id: Id of the run in the records.

    Returns:
        A text that names the tasks that run again.

    Raises:
        ConfigError: Airflow does not know the run, or no task of it has failed.
    """
    from airflow.models.dagbag import DBDagBag

    dag_id = f"nightly_{pipeline}"
    name = dag_runs(pipeline).get(run_id)
    with create_session() as session:
        run = session.scalar(
            select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == (name or ""))
        )
        dag = DBDagBag().get_dag_for_run(run, session=session) if run is not None else None
        if run is None or dag is None:
            raise ConfigError(
                f"Airflow knows no run {run_id!r}", where=dag_id, hint="run it from the shell"
            )
        states = {
            instance.task_id: str(instance.state)
            for instance in run.get_task_instances(session=session)
        }
        failed = [task for task, state in states.items() if state in ("failed", "upstream_failed")]
        if not failed:
            raise ConfigError("no task of this run has failed", where=run_id)
        final_tasks = [task for task in ("report", "watch_cost") if task in states]
        dag.clear(run_id=run.run_id, task_ids=sorted({*failed, *final_tasks}), session=session)
    return f"running again: {', '.join(sorted(failed))}"


def trigger(dag_id: str, conf: Mapping[str, Any], by: str, run_id: str | None = None) -> str:
    """Trigger a DAG run on behalf of a user.

    Args:
        dag_id: Id of the DAG.
        conf: Values of the DAG's trigger form.
        by: Name of the user.
        run_id: Id of the run; None: Airflow chooses it.

    Returns:
        Id of the run.

    Raises:
        NightbidError: Airflow does not accept the run.
    """
    from airflow.api.common.trigger_dag import trigger_dag
    from airflow.sdk.exceptions import AirflowException

    try:
        run = trigger_dag(
            dag_id=dag_id,
            triggered_by=DagRunTriggeredByType.REST_API,
            triggering_user_name=by,
            run_id=run_id,
            conf=dict(conf),
        )
    except (AirflowException, ValueError) as error:
        raise NightbidError(
            f"Airflow refused the run: {error}",
            where=dag_id,
            hint="check in Airflow's list of DAGs that it exists and is switched on",
        ) from error
    return str(run.run_id) if run is not None else ""


def login_address(back: str) -> str:
    """Get the address of the login page that redirects to `back` afterwards."""
    return str(get_auth_manager().get_url_login(next_url=back))
