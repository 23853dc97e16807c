"""The one plugin: Nightbid's pages inside Airflow, and the roles of its login.

Every component of Airflow imports this file, so it imports nothing but what a plugin is.
"""

from __future__ import annotations

from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin
from nightbid_airflow import notes, roles
from nightbid_airflow.timetable import NightTimetable
from nightbid_airflow.views.asgi import PREFIX, LazyApp, LazyRefusals, entry_address

TABS = {
    "dag": "{DAG_ID}",
    "dag_run": "{DAG_ID}/{RUN_ID}",
    "task_instance": "{DAG_ID}/{RUN_ID}/{TASK_ID}",
}
"""Airflow's pages with a *Nightbid* tab → the page that it shows; Airflow fills the braces in."""


class NightbidPlugin(AirflowPlugin):
    """Nights, comparisons, costs and champions, behind Airflow's own login."""

    name = "nightbid"
    listeners: ClassVar[list[Any]] = [roles, notes]
    timetables: ClassVar[list[Any]] = [NightTimetable]
    fastapi_apps: ClassVar[list[Any]] = [
        {"app": LazyApp(), "url_prefix": PREFIX, "name": "Nightbid"}
    ]
    fastapi_root_middlewares: ClassVar[list[Any]] = [
        {"middleware": LazyRefusals, "args": [], "kwargs": {}, "name": "Short refusals of the form"}
    ]
    external_views: ClassVar[list[Any]] = [
        {
            "name": "Nightbid",
            "href": entry_address(),
            "url_route": "nightbid",
            "destination": "nav",
        },
        *(
            {
                "name": "Nightbid",
                "href": f"{entry_address()}airflow/{path}",
                "url_route": f"nightbid-{place}",
                "destination": place,
            }
            for place, path in TABS.items()
        ),
    ]
