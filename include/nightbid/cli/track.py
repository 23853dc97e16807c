"""`nightbid track`: logs runs in MLflow, as a night does at its end, but shows errors."""

from __future__ import annotations

from nightbid.addresses import hide, shown
from nightbid.config.settings import Settings
from nightbid.errors import ConfigError, WorkspaceError
from nightbid.night.record import RunRecord, runs_of
from nightbid.storage.workspace import Workspace
from nightbid.tracking.log import replay, tracking_uri
from nightbid.tracking.payload import Payload
from nightbid.tracking.queue import Queue


def track_runs(settings: Settings, pipeline: str, run_id: str) -> str:
    """Log a run and all queued runs.

    Args:
        settings: Settings that name the workspace and the tracking store.
        pipeline: Name of the pipeline whose run to log; empty: only queued runs.
        run_id: Id of the run; empty: the newest run of the pipeline.

    Returns:
        A line that says what was logged.

    Raises:
        ConfigError: No tracking store is set, or there is no such run.
        WorkspaceError: The tracking store cannot be reached.
    """
    workspace = Workspace(settings.workspace)
    uri = tracking_uri(settings, workspace)
    if not uri:
        raise ConfigError(
            "no tracking store is set",
            where="NIGHTBID_TRACKING",
            hint="set it to the address of an MLflow server",
        )
    if pipeline:
        Queue(workspace).put(Payload.of(_run(workspace, pipeline, run_id)))
    try:
        logged = replay(workspace, uri)
    except Exception as error:
        # MLflow, SQLAlchemy and requests raise different errors.
        raise WorkspaceError(
            hide(f"{type(error).__name__}: {' '.join(str(error).split())}", uri)[:300],
            where=shown(uri),
            hint="queued runs stay queued; check the MLflow server, then `nightbid track --replay`",
        ) from error
    if not logged:
        return f"nothing is queued for {shown(uri)}"
    return f"logged {', '.join(logged)} in {shown(uri)}"


def _run(workspace: Workspace, pipeline: str, run_id: str) -> RunRecord:
    if run_id:
        return RunRecord.load(workspace, pipeline, run_id)
    runs = runs_of(workspace, pipeline)
    if not runs:
        raise ConfigError(
            f"no runs of {pipeline!r} yet",
            where=str(workspace.root),
            hint=f"start one with `nightbid run {pipeline} --date …`",
        )
    return runs[-1]
