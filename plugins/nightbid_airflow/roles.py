"""Creates the roles that pipelines name in Airflow's login.

If the `access_control` of a DAG names a role that Airflow's login (FAB) does not have, Airflow
refuses all DAGs of the file. So each missing role of NIGHTBID_ROLES is created when a scheduler,
DAG processor or triggerer starts. It has no permissions of its own and no users at first.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from airflow.listeners import hookimpl

LOG = logging.getLogger(__name__)


@hookimpl
def on_starting(component: Any) -> None:
    """Create the roles when a component of Airflow starts."""
    from airflow.configuration import conf
    from airflow.utils.session import create_session
    from nightbid.config.settings import Settings

    roles = Settings().roles
    if roles and "FabAuthManager" in conf.get("core", "auth_manager"):
        with create_session() as session:
            make_roles(roles, session)


def make_roles(names: Iterable[str], session: Any) -> list[str]:
    """Create the roles that are missing, and log them.

    Args:
        names: Names of the roles.
        session: Session of Airflow's database.

    Returns:
        Names of the roles that were created.
    """
    from airflow.providers.fab.www.security_appless import ApplessAirflowSecurityManager

    manager = ApplessAirflowSecurityManager(session=session)
    created = []
    for name in names:
        if manager.find_role(name) is None:
            manager.add_role(name)
            created.append(name)
            LOG.warning("NIGHTBID_ROLES: Airflow had no role %r; created it without permissions "
                        "→ assign it to users, or correct the name", name)  # fmt: skip
    return created
