"""The pages of inspected folders of logs."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse
from nightbid.data_check.saved import saved_checks
from nightbid.report.data_check_page import data_check_page, data_checks_page

from nightbid_airflow.views.current_user import Login
from nightbid_airflow.views.links import ServedLinks
from nightbid_airflow.views.workspaces import Workspaces

DAG_ID = "data_check"


def add_data_checks(
    app: FastAPI, shelf: Workspaces, links: Callable[[Request], ServedLinks]
) -> None:
    """Add the list of data checks and their pages, for users who may read runs of their DAG."""

    @app.get("/data-checks")
    def data_checks(request: Request, reader: Login) -> HTMLResponse:
        checks = saved_checks(shelf.workspace) if reader.may_read_dag(DAG_ID) else []
        return HTMLResponse(data_checks_page(checks, links(request), shelf.pipelines(reader)))

    @app.get("/data-checks/{name}")
    def data_check(request: Request, name: str, reader: Login) -> HTMLResponse:
        # Look the name up in the list: a name from a request is never used as a path.
        known = saved_checks(shelf.workspace) if reader.may_read_dag(DAG_ID) else []
        check = next((check for check in known if check.name == name), None)
        if check is None:
            raise HTTPException(404, f"There is no check {name!r} of a folder.")
        return HTMLResponse(data_check_page(check, links(request), shelf.pipelines(reader)))
