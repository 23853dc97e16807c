"""Routes of the pages. Each checks permissions, finds the records and renders a page."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response
from nightbid.config.gates import GATES
from nightbid.config.settings import Settings
from nightbid.counts import counted
from nightbid.night.champion import ChampionPointer
from nightbid.night.pauses import PromotionPauses
from nightbid.night.stages import STAGES
from nightbid.report import pages as documents
from nightbid.report.assets import scripts
from nightbid.report.comparison import RunComparison
from nightbid.report.cost_trend import TREND
from nightbid.report.index_pages import KINDS, PAGE, Filter
from nightbid.report.output_page import output_document
from nightbid.storage.workspace import read_manifest
from starlette.middleware.base import RequestResponseEndpoint
from upath import UPath

from nightbid_airflow.views.actions import add_actions, token_of
from nightbid_airflow.views.current_user import CurrentUser, Login, dag_runs
from nightbid_airflow.views.data_checks import add_data_checks
from nightbid_airflow.views.error_pages import add_error_pages
from nightbid_airflow.views.links import ServedLinks
from nightbid_airflow.views.rehearsals import add_rehearsals
from nightbid_airflow.views.sweeps import add_sweeps
from nightbid_airflow.views.tabs import add_tabs
from nightbid_airflow.views.workspaces import Workspaces

HEADERS = {
    # Only own scripts, no external resources, and only Airflow may frame the pages.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'self';"
        " form-action 'self'; frame-ancestors 'self'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "private, no-cache",
}
SHOWN = {
    "data_docs.html": "text/html; charset=utf-8",
    "gate.json": "application/json",
    "manifest.json": "application/json",
}
"""File of an output that a page may show → its media type."""
KEY = re.compile(r"[0-9a-f]{8,64}")
MOST = 24
"""Maximum number of runs side by side that fit on a screen."""


def _chosen(
    kind: Annotated[str, Query(pattern=f"^({'|'.join(KINDS)})?$")] = "",
    state: Annotated[str, Query(pattern="^(done|stopped|failed|running)?$")] = "",
    q: Annotated[str, Query(max_length=200)] = "",
    sweeps: bool = False,
) -> Filter:
    return Filter("sweep" if sweeps else kind, state, q)


ChosenFilter = Annotated[Filter, Depends(_chosen)]
Page = Annotated[int, Query(ge=1, le=100_000)]


@cache
def pages() -> FastAPI:
    """Get the application of this process."""
    return make_pages(Settings())


def make_pages(settings: Settings) -> FastAPI:
    """Make the application.

    Args:
        settings: Settings that name the workspace.
    """
    app = FastAPI(title="Nightbid", docs_url=None, redoc_url=None, openapi_url=None)
    shelf = Workspaces(settings)
    add_actions(app, shelf, settings)

    def links(request: Request) -> ServedLinks:
        return ServedLinks(request.scope.get("root_path", ""), mlflow=shelf.mlflow or "")

    def _to_act(request: Request, pipeline: str, reader: CurrentUser) -> ServedLinks:
        served_links = links(request)
        served_links.token = token_of(reader.name) if reader.may_edit(pipeline) else ""
        return served_links

    add_data_checks(app, shelf, links)
    add_rehearsals(app, shelf, links)
    add_sweeps(app, shelf, settings, _to_act)
    add_tabs(app, shelf, links)

    @app.middleware("http")
    async def guard(request: Request, go_on: RequestResponseEndpoint) -> Response:
        answer = await go_on(request)
        for name, value in HEADERS.items():
            answer.headers.setdefault(name, value)
        return answer

    # Only scripts need no login: they contain no user data.
    @app.get("/frame.js")
    def frame() -> Response:
        script = (Path(__file__).parent / "frame.js").read_text(encoding="utf-8")
        return PlainTextResponse(script, media_type="text/javascript")

    @app.get("/assets/{name}")
    def asset(name: str, v: str = "") -> Response:
        script = next((script for script in scripts() if script.name == name), None)
        if script is None:
            raise HTTPException(404, f"There is no script {name!r}.")
        headers = {"Cache-Control": "public, max-age=31536000, immutable"}
        same = bool(v) and script.sha256.hex().startswith(v)
        return PlainTextResponse(
            script.text, media_type="text/javascript", headers=headers if same else None
        )

    @app.get("/")
    def all_nights(
        request: Request, reader: Login, chosen: ChosenFilter, page: Page = 1
    ) -> HTMLResponse:
        return _nights(request, reader, shelf.pipelines(reader), page, "", chosen)

    @app.get("/nights/{pipeline}")
    def nights(
        request: Request, pipeline: str, reader: Login, chosen: ChosenFilter, page: Page = 1
    ) -> HTMLResponse:
        shelf.open(pipeline, reader)
        return _nights(request, reader, [pipeline], page, pipeline, chosen)

    def _nights(
        request: Request,
        reader: CurrentUser,
        names: list[str],
        page: int,
        pipeline: str,
        chosen: Filter,
    ) -> HTMLResponse:
        every = {name: shelf.summaries.of(name) for name in names}
        kinds = {run.kind for pipeline_runs in every.values() for run in pipeline_runs}
        # If there is no night yet, list runs of all kinds.
        kind = chosen.kind or ("night" if "night" in kinds else "")
        by_name = {
            name: [
                run for run in pipeline_runs if (run.kind == kind if kind else run.kind != "sweep")
            ]
            for name, pipeline_runs in every.items()
        }
        runs = sorted(
            (
                run
                for pipeline_runs in by_name.values()
                for run in pipeline_runs
                if chosen.takes(run)
            ),
            key=lambda run: (run.started, run.run_id),
            reverse=True,
        )
        page = min(page, max(1, -(-len(runs) // PAGE)))
        # Out of hundreds of pipelines, only those that match the search.
        shown = [
            name
            for name, pipeline_runs in by_name.items()
            if not chosen.text or any(chosen.takes(run) for run in pipeline_runs)
        ]
        return HTMLResponse(
            documents.nights_document(
                runs[(page - 1) * PAGE : page * PAGE],
                len(runs),
                page=page,
                pipeline=pipeline,
                trends={name: by_name[name][-TREND:] for name in shown},
                links=links(request),
                pipelines=shelf.pipelines(reader),
                sweeps=kind == "sweep",
                champions=shelf.champions(names),
                damaged=[f"{name}/{run_id}" for name in names for run_id in shelf.damaged(name)],
                chosen=Filter(kind, chosen.state, chosen.text),
                attention=shelf.attention(reader, pipeline),
            )
        )

    @app.get("/runs/{pipeline}/{run_id}")
    def run(request: Request, pipeline: str, run_id: str, reader: Login) -> HTMLResponse:
        record = shelf.run(pipeline, run_id, reader)
        served = ServedLinks(
            request.scope.get("root_path", ""),
            dag_runs=dag_runs(pipeline),
            mlflow=shelf.mlflow or "",
        )
        served.token = token_of(reader.name) if reader.may_edit(pipeline) else ""
        nights = shelf.summaries.of(pipeline)
        return HTMLResponse(documents.run_document(record, served, nights=nights))

    @app.get("/runs/{pipeline}/{run_id}/report.html")
    def report(pipeline: str, run_id: str, reader: Login) -> HTMLResponse:
        record = shelf.run(pipeline, run_id, reader)
        name = {"Content-Disposition": f'attachment; filename="{record.run_id}.html"'}
        page = documents.run_document(record, nights=shelf.summaries.of(pipeline))
        return HTMLResponse(page, headers=name)

    @app.get("/outputs/{pipeline}/{stage}/{key}")
    def output(request: Request, pipeline: str, stage: str, key: str, reader: Login) -> Response:
        folder = _output_folder(pipeline, stage, key, reader)
        page: UPath = folder / "index.html"
        if not page.exists():
            names = shelf.pipelines(reader)
            return HTMLResponse(output_document(read_manifest(folder), links(request), names))
        text = page.read_text(encoding="utf-8")
        for name in SHOWN:
            # On disk the files are in the folder of the page; here they are below its address.
            text = text.replace(f'href="{name}"', f'href="{key}/{name}"')
        return HTMLResponse(text)

    @app.get("/outputs/{pipeline}/{stage}/{key}/{name}")
    def output_file(pipeline: str, stage: str, key: str, name: str, reader: Login) -> Response:
        path: UPath = _output_folder(pipeline, stage, key, reader) / name
        if name not in SHOWN or not path.exists():
            raise HTTPException(404, f"{stage}/{key} has no file {name} to show.")
        return Response(path.read_bytes(), media_type=SHOWN[name])

    def _output_folder(pipeline: str, stage: str, key: str, reader: CurrentUser) -> UPath:
        shelf.open(pipeline, reader)
        if stage not in STAGES or not KEY.fullmatch(key):
            raise HTTPException(404, f"There is no output {stage}/{key}.")
        folder = shelf.workspace.stage_folder(pipeline, stage, key)
        if not any((folder / name).exists() for name in ("index.html", "manifest.json")):
            raise HTTPException(404, f"The output {stage}/{key} has been deleted.")
        return folder

    @app.get("/checks/{gate}")
    def checks(request: Request, gate: str, reader: Login, pipeline: str = "") -> HTMLResponse:
        if gate not in GATES:
            raise HTTPException(404, f"There is no gate {gate!r}.")
        names = shelf.pipelines(reader)
        return HTMLResponse(
            documents.checks_document(
                gate, pipeline if pipeline in names else "", links=links(request), pipelines=names
            )
        )

    @app.get("/compare/{pipeline}")
    def compare(
        request: Request,
        pipeline: str,
        reader: Login,
        run: Annotated[list[str] | None, Query()] = None,
        asked: bool = False,
    ) -> HTMLResponse:
        chosen = [shelf.run(pipeline, name, reader) for name in dict.fromkeys(run or ())]
        names = shelf.pipelines(reader)
        if not 2 <= len(chosen) <= MOST:
            return HTMLResponse(
                documents.message_document(
                    f"{counted(len(chosen), 'run')} to compare",
                    f"Select two to {MOST} runs in the list of nights.",
                    links=links(request),
                    pipelines=names,
                    to=links(request).nights(pipeline),
                    text=f"Nights of {pipeline}",
                ),
                status_code=422,
            )
        served_links, comparison = _to_act(request, pipeline, reader), RunComparison.of(chosen)
        page = documents.compare_document(
            comparison, links=served_links, pipelines=names, requested=asked
        )
        return HTMLResponse(page)

    @app.get("/costs")
    def costs(request: Request, reader: Login) -> HTMLResponse:
        names = shelf.pipelines(reader)
        runs = [run for name in names for run in shelf.summaries.of(name)]
        return HTMLResponse(documents.costs_document(runs, links=links(request), pipelines=names))

    @app.get("/champion/{pipeline}")
    def champion(request: Request, pipeline: str, reader: Login) -> HTMLResponse:
        known = shelf.open(pipeline, reader)
        return HTMLResponse(
            documents.champion_document(
                pipeline,
                ChampionPointer(shelf.workspace, pipeline).history(),
                known,
                paused=PromotionPauses(shelf.workspace, pipeline).current(),
                links=_to_act(request, pipeline, reader),
                pipelines=shelf.pipelines(reader),
            )
        )

    add_error_pages(app, links)
    return app
