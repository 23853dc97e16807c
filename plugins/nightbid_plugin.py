"""The one plugin: Nightbid's pages inside Airflow, and the roles of its login.

Every component of Airflow imports this file, so it imports nothing but what a plugin is.
"""

from __future__ import annotations

from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin
from nightbid_airflow import roles
from nightbid_airflow.views.asgi import PREFIX, LazyApp, entry_address


class NightbidPlugin(AirflowPlugin):
    """Nights, comparisons, costs and champions, behind Airflow's own login."""

    name = "nightbid"
    listeners: ClassVar[list[Any]] = [roles]
    fastapi_apps: ClassVar[list[Any]] = [
        {"app": LazyApp(), "url_prefix": PREFIX, "name": "Nightbid"}
    ]
    external_views: ClassVar[list[Any]] = [
        {
            "name": "Nightbid",
            "href": entry_address(),
            "url_route": "nightbid",
            "destination": "nav",
        }
    ]
