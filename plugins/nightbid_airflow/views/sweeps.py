"""The page of a sweep, with a button that runs its winner as a night."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse
from nightbid.config.settings import Settings
from nightbid.errors import ConfigError

from nightbid_airflow.views.current_user import CurrentUser, Login, dag_runs, trigger
from nightbid_airflow.views.links import ServedLinks

if TYPE_CHECKING:
    from nightbid.sweep.study import Sweep

    from nightbid_airflow.views.workspaces import Workspaces


def add_sweeps(
    app: FastAPI,
    shelf: Workspaces,
    settings: Settings,
    links: Callable[[Request, str, CurrentUser], ServedLinks],
) -> None:
    """Add the page of a sweep.

    Args:
        app: Application of the pages.
        shelf: Workspace lookups of the pages.
        settings: Settings that name the workspace and the pipelines.
        links: Function that makes the links for a request, a pipeline and a user, with a token if
            the user may act.
    """

    @app.get("/sweeps/{pipeline}/{name}")
    def sweep(request: Request, pipeline: str, name: str, reader: Login) -> HTMLResponse:
        shelf.open(pipeline, reader)
        # Optuna takes a second to import, so import it only when a sweep is shown.
        from nightbid.sweep.summary import sweep_document

        try:
            study = open_sweep(pipeline, name, settings)
        except ConfigError as error:
            raise HTTPException(404, str(error)) from error
        served_links, names = links(request, pipeline, reader), shelf.pipelines(reader)
        return HTMLResponse(sweep_document(study, settings, served_links, names))


def open_sweep(pipeline: str, name: str, settings: Settings) -> Sweep:
    """Open a sweep by a name from a request, which is looked up in the list of sweeps.

    Raises:
        ConfigError: There is no sweep of this name.
    """
    from nightbid.sweep.study import Sweep, sweep_names

    if name not in sweep_names(settings, pipeline):
        raise ConfigError(f"no sweep {name!r} of {pipeline!r}", where="sweep")
    return Sweep.load(pipeline, name, settings)


def run_winner(pipeline: str, name: str, settings: Settings, by: str) -> str:
    """Trigger a night with the settings of a sweep's winner, through every gate.

    Args:
        pipeline: Name of the pipeline.
        name: Name of the sweep.
        settings: Settings that name the workspace and the pipelines.
        by: Name of the user.

    Returns:
        Id of the run in the records.

    Raises:
        ConfigError: There is no such sweep, no trial has succeeded, the winner has already been
            run, or Airflow does not accept the run.
    """
    sweep = open_sweep(pipeline, name, settings)
    ranked = sweep.ranked()
    if not ranked:
        raise ConfigError("no trial succeeded: there is no winner", where=name)
    run_id = f"{name}-winner"
    if run_id in dag_runs(pipeline):
        raise ConfigError(
            f"the winner has been run as {run_id}",
            where=name,
            hint="clear that run in Airflow to run it again",
        )
    conf = {"date": sweep.head.date.isoformat(), "overrides": list(ranked[0].overrides)}
    trigger(f"nightly_{pipeline}", conf, by, run_id)
    return run_id
