"""MLflow tracking of trials: one experiment per sweep, one run per trial; never fails a sweep."""

from __future__ import annotations

import logging

from nightbid.config.settings import Settings
from nightbid.night.record import RunRecord
from nightbid.storage.workspace import Workspace
from nightbid.sweep.study import Sweep
from nightbid.tracking.log import deliver, tracking_uri
from nightbid.tracking.payload import Payload
from nightbid.tracking.queue import Queue


def track_trials(sweep: Sweep, settings: Settings) -> str:
    """Queue every finished trial, and log the queue. Never raises.

    Returns:
        A one-line message; empty if there is nothing to report.
    """
    head, workspace = sweep.head, Workspace(settings.workspace)
    try:
        if not tracking_uri(settings, workspace):
            return ""
        for trial in sweep.trials():
            if trial.state == "running":
                continue
            run = RunRecord.load(workspace, head.pipeline, trial.run_id)
            experiment = f"{head.pipeline}.sweep.{head.name}"
            Queue(workspace).put(Payload.of(run).model_copy(update={"experiment": experiment}))
    except Exception as error:
        logging.getLogger(__name__).warning("sweep %s is not tracked", head.name, exc_info=True)
        return f"not tracked: {type(error).__name__}: {error}"
    return str(deliver(workspace, settings))
