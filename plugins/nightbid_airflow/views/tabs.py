"""The *Nightbid* tab on Airflow's pages of a DAG, a run and a task, which leads to Nightbid's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from nightbid.night.record import safe_run_id
from nightbid.report import records
from nightbid.report.pages import message_document
from nightbid.report.run_view import RunView
from sqlalchemy import select

from nightbid_airflow.views.current_user import CurrentUser, Login
from nightbid_airflow.views.links import ServedLinks
from nightbid_airflow.views.workspaces import Workspaces

PAGES = {"nightly": "nights", "score": "champion"}
"""Kind of DAG → Nightbid's page for its pipeline."""


def add_tabs(app: FastAPI, shelf: Workspaces, links: Callable[[Request], ServedLinks]) -> None:
    """Add a route per page of Airflow that has the tab."""

    def _message(request: Request, title: str, message: str, to: str, text: str) -> Response:
        page = message_document(title, message, links=links(request), to=to, text=text)
        return HTMLResponse(page)

    def _lead(request: Request, reader: CurrentUser, dag_id: str, run_id: str, task: str) -> Any:
        served_links = links(request)
        kind, _, pipeline = dag_id.partition("_")
        if dag_id == "sweep":
            return RedirectResponse(_sweep_page(served_links, run_id) or served_links.sweeps(""))
        if dag_id == "data_check":
            name = safe_run_id(run_id) if run_id else ""
            return RedirectResponse(
                served_links.data_check(name) if name else served_links.data_checks()
            )
        if kind not in PAGES or not reader.may_read(pipeline):
            message = f"{dag_id} is not the nightly DAG of a pipeline and has no page here."
            return _message(request, "Nothing here", message, served_links.nights(), "All nights")
        if pipeline not in records.pipelines(shelf.workspace):
            message = f"{pipeline} has no run yet. A run appears here when its first stage starts."
            return _message(request, "No run yet", message, served_links.nights(), "All nights")
        if kind != "nightly" or not run_id:
            return RedirectResponse(f"{served_links.base}/{PAGES[kind]}/{quote(pipeline)}")
        name = safe_run_id(run_id)
        run = records.run(shelf.workspace, pipeline, name)
        if run is None:
            message = "No stage of this run has started. Reload this page once one has."
            return _message(
                request, run_id, message, served_links.nights(pipeline), f"Nights of {pipeline}"
            )
        stage = task.rpartition(".")[2]
        if stage.startswith("gate_") and (page := served_links.output(RunView(run).stage(stage))):
            return RedirectResponse(page)
        return RedirectResponse(served_links.run(run.head))

    @app.get("/airflow/{dag_id}")
    def of_dag(request: Request, dag_id: str, reader: Login) -> Response:
        page: Response = _lead(request, reader, dag_id, "", "")
        return page

    @app.get("/airflow/{dag_id}/{run_id}")
    def of_run(request: Request, dag_id: str, run_id: str, reader: Login) -> Response:
        page: Response = _lead(request, reader, dag_id, run_id, "")
        return page

    @app.get("/airflow/{dag_id}/{run_id}/{task_id}")
    def of_task(
        request: Request, dag_id: str, run_id: str, task_id: str, reader: Login
    ) -> Response:
        page: Response = _lead(request, reader, dag_id, run_id, task_id)
        return page


def _sweep_page(served_links: ServedLinks, run_id: str) -> str:
    """Get the address of the sweep of a DAG run; empty if its pipeline is unknown."""
    with create_session() as session:
        conf = session.scalar(
            select(DagRun.conf).where(DagRun.dag_id == "sweep", DagRun.run_id == run_id)
        )
    if not conf or not conf.get("pipeline"):
        return ""
    return served_links.sweep(conf["pipeline"], conf.get("name") or safe_run_id(f"sweep-{run_id}"))
