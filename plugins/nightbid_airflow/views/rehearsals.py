"""The pages of rehearsed upgrades."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse
from nightbid.rehearse.report import reports_of
from nightbid.report.rehearsal_page import rehearsal_page, rehearsals_page

from nightbid_airflow.views.current_user import Login
from nightbid_airflow.views.links import ServedLinks
from nightbid_airflow.views.workspaces import Workspaces


def add_rehearsals(
    app: FastAPI, shelf: Workspaces, links: Callable[[Request], ServedLinks]
) -> None:
    """Add the list of rehearsals and the page of each report."""

    @app.get("/rehearsals")
    def rehearsals(request: Request, reader: Login) -> HTMLResponse:
        names = shelf.pipelines(reader)
        reports = reports_of(shelf.workspace, names)
        return HTMLResponse(rehearsals_page(reports, links(request), names))

    @app.get("/rehearsals/{pipeline}/{name}")
    def rehearsal(request: Request, pipeline: str, name: str, reader: Login) -> HTMLResponse:
        shelf.open(pipeline, reader)
        # Look the name up in the list: a name from a request is never used as a path.
        matches = (
            report for report in reports_of(shelf.workspace, [pipeline]) if report.plan.name == name
        )
        report = next(matches, None)
        if report is None:
            raise HTTPException(404, f"Pipeline {pipeline!r} has no rehearsal {name!r}.")
        return HTMLResponse(rehearsal_page(report, links(request)))
