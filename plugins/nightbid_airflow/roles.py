"""Roles that pipelines name exist in Airflow's login.

Airflow refuses a DAG whose `access_control` names a role that its login (FAB) does not have, and
with it every DAG of the same file. So each role of NIGHTBID_ROLES that is missing is made when a
scheduler, DAG processor or triggerer starts: empty, until somebody is given it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from airflow.listeners import hookimpl

LOG = logging.getLogger(__name__)


@hookimpl
def on_starting(component: Any) -> None:
    """Make the roles, once Airflow's own parts start."""
    from airflow.configuration import conf
    from airflow.utils.session import create_session
    from nightbid.config.settings import Settings

    roles = Settings().roles
    if roles and "FabAuthManager" in conf.get("core", "auth_manager"):
        with create_session() as session:
            make_roles(roles, session)


def make_roles(names: Iterable[str], session: Any) -> list[str]:
    """Make the roles that are missing, and say so.

    Args:
        names: Of roles.
        session: Of Airflow's database.

    Returns:
        Those that were made.
    """
    from airflow.providers.fab.www.security_appless import ApplessAirflowSecurityManager

    manager = ApplessAirflowSecurityManager(session=session)
    made = []
    for name in names:
        if manager.find_role(name) is None:
            manager.add_role(name)
            made.append(name)
            LOG.warning("NIGHTBID_ROLES: the login had no role %r, and has an empty one now"
                        " → give it to people, or correct the name", name)  # fmt: skip
    return made
