"""Airflow's own login and permissions, as dependencies of the pages.

Airflow serves a plugin's application to anybody: every route here depends on `CurrentUser`.
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
    """A person who is logged in, and the pipelines that they may read the nightly DAGs of."""

    def __init__(self, user: Annotated[BaseUser, Depends(get_user)]) -> None:
        self._user = user

    def may_read(self, pipeline: str) -> bool:
        """Whether Airflow lets them read runs of the pipeline's DAG."""
        return self.may_read_dag(f"nightly_{pipeline}")

    def may_read_dag(self, dag: str) -> bool:
        """Whether Airflow lets them read runs of a DAG."""
        manager: BaseAuthManager[BaseUser] = get_auth_manager()
        return manager.is_authorized_dag(
            method="GET",
            access_entity=DagAccessEntity.RUN,
            details=DagDetails(id=dag, team_name=DagModel.get_team_name(dag)),
            user=self._user,
        )

    @property
    def name(self) -> str:
        """Name of the person, as histories keep it."""
        return str(self._user.get_name())

    def may_edit(self, pipeline: str) -> bool:
        """Whether Airflow lets them edit the pipeline's DAG: then they may act on its nights."""
        dag = f"nightly_{pipeline}"
        manager: BaseAuthManager[BaseUser] = get_auth_manager()
        return manager.is_authorized_dag(
            method="PUT",
            details=DagDetails(id=dag, team_name=DagModel.get_team_name(dag)),
            user=self._user,
        )

    def readable(self, pipelines: Iterable[str]) -> list[str]:
        """Those that they may read."""
        return [name for name in pipelines if self.may_read(name)]


Login = Annotated[CurrentUser, Depends()]


def dag_runs(pipeline: str) -> dict[str, str]:
    """Run ids of a pipeline's DAG: as the records name them → as Airflow does."""
    with create_session() as session:
        found = session.scalars(
            select(DagRun.run_id).where(DagRun.dag_id == f"nightly_{pipeline}")
        ).all()
    return {safe_run_id(name): name for name in found}


def rerun_failed(pipeline: str, run_id: str) -> str:
    """Clear the failed tasks of a DAG run, and with them the ones that go beside every night.

    Args:
        pipeline: Name of the pipeline.
        run_id: As the records name it.

    Returns:
        Which tasks run again.

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
        states = {each.task_id: str(each.state) for each in run.get_task_instances(session=session)}
        failed = [task for task, state in states.items() if state in ("failed", "upstream_failed")]
        if not failed:
            raise ConfigError("no task of this run has failed", where=run_id)
        beside = [task for task in ("report", "watch_cost") if task in states]
        dag.clear(run_id=run.run_id, task_ids=sorted({*failed, *beside}), session=session)
    return f"running again: {', '.join(sorted(failed))}"


def trigger(dag_id: str, conf: Mapping[str, Any], by: str, run_id: str | None = None) -> str:
    """Trigger a DAG run in the name of a person.

    Args:
        dag_id: Of the DAG.
        conf: What its form asks for.
        by: Name of the person.
        run_id: Default: Airflow names the run.

    Returns:
        Name of the run.

    Raises:
        NightbidError: Airflow does not take it.
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
            f"Airflow does not take the run: {error}",
            where=dag_id,
            hint="see in Airflow's list of DAGs that it is there and switched on",
        ) from error
    return str(run.run_id) if run is not None else ""


def login_address(back: str) -> str:
    """Where a person logs in, to be led back to an address."""
    return str(get_auth_manager().get_url_login(next_url=back))
