"""Logging of runs to MLflow, which never delays or fails a night.

A run is first put into a queue on disk, then a child process logs the whole queue. MLflow is slow
to import, and its store may be down, hang or have another version. If the child fails, the night
continues, and the queue is retried after the next night or by `nightbid track`.
"""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from nightbid.addresses import hide, shown
from nightbid.config.settings import Settings
from nightbid.night.record import RunRecord
from nightbid.processes import how_it_ended
from nightbid.report.run_view import RunView
from nightbid.storage.workspace import Workspace
from nightbid.tracking.logged import Logged
from nightbid.tracking.payload import Payload
from nightbid.tracking.queue import Queue

LOG = logging.getLogger(__name__)
PATIENCE = 120.0
"""Maximum seconds that a night waits for its logging."""


@dataclass(frozen=True)
class TrackingOutcome:
    """Outcome of logging a run."""

    state: Literal["logged", "queued", "lost", "off", "unfinished", "idle"]
    detail: str = ""

    def __str__(self) -> str:
        """Return a one-line message; empty if there is nothing to report."""
        return {
            "logged": f"tracked: {self.detail}",
            "queued": f"not tracked yet, queued: {self.detail} → later: `nightbid track --replay`",
            "lost": f"not tracked: {self.detail} → later: `nightbid track PIPELINE RUN`",
        }.get(self.state, "")


def tracking_uri(settings: Settings, workspace: Workspace) -> str:
    """Return the address of the MLflow store; empty if tracking is off."""
    if settings.tracking is not None:
        return settings.tracking
    if not workspace.is_local:
        return ""
    return f"sqlite:///{Path(str(workspace.root)) / 'tracking' / 'mlflow.db'}"


def log_run(run: RunRecord, settings: Settings, *, patience: float = PATIENCE) -> TrackingOutcome:
    """Log a finished run, and the runs queued before. Never raises.

    Args:
        run: Run that is done, stopped or failed; a running one is skipped.
        settings: Settings that name the store.
        patience: Maximum seconds to wait for the store.
    """
    queued = queue_run(run, settings)
    return deliver(run.workspace, settings, patience=patience) if queued is None else queued


def queue_run(run: RunRecord, settings: Settings) -> TrackingOutcome | None:
    """Queue a finished run, which takes no time. Never raises.

    A run that was logged before and has no new results is skipped.

    Returns:
        None if the run is queued for `deliver`; otherwise why it is not.
    """
    try:
        uri = tracking_uri(settings, run.workspace)
        if not uri:
            return TrackingOutcome("off")
        if RunView(run).state == "running":
            return TrackingOutcome("unfinished")
        payload, before = Payload.of(run), Logged.of(run.folder)
        if before is not None and (before.store, before.content) == (shown(uri), payload.content):
            return TrackingOutcome("idle")
        Queue(run.workspace).put(payload)
    except Exception as error:
        # A night that is judged and promoted stays so, whatever happens to its tracking.
        LOG.warning("run %s is not tracked", run.run_id, exc_info=True)
        return TrackingOutcome("lost", f"{run.run_id}: {type(error).__name__}: {error}")
    return None


def deliver(
    workspace: Workspace, settings: Settings, *, patience: float = PATIENCE
) -> TrackingOutcome:
    """Log the queue in a child process. Never raises.

    Args:
        workspace: Workspace of the queue.
        settings: Settings that name the store.
        patience: Maximum seconds to wait for the store.
    """
    uri = tracking_uri(settings, workspace)
    if not uri:
        return TrackingOutcome("off")
    try:
        if not Queue(workspace).waiting():
            return TrackingOutcome("idle")
        failure = _refused(uri) or _in_child(str(workspace.root), uri, patience)
    except Exception as error:
        LOG.warning("the tracking queue was not logged", exc_info=True)
        failure = f"{type(error).__name__}: {error}"
    return (
        TrackingOutcome("queued", hide(failure, uri))
        if failure
        else TrackingOutcome("logged", shown(uri))
    )


def replay(workspace: Workspace, uri: str) -> list[str]:
    """Log every queued run in this process, up to the first failure; the rest stays queued.

    Returns:
        Ids of the logged runs.

    Raises:
        Exception: Any error of the store.
    """
    from nightbid.tracking.store import TrackingStore

    queue, logged = Queue(workspace), []
    with queue.alone():
        waiting = queue.waiting()
        store = TrackingStore(uri, workspace) if waiting else None
        for payload in waiting:
            assert store is not None
            entry = store.log(payload)
            noted = entry.model_copy(update={"content": payload.content})
            noted.save(workspace, payload.experiment, payload.run_id)
            queue.done(payload)
            logged.append(payload.run_id)
    return logged


def _refused(uri: str) -> str:
    """Return why a server cannot be reached, before MLflow takes seconds to start; else empty."""
    address = urlsplit(uri)
    if address.scheme not in ("http", "https") or not address.hostname:
        return ""
    if address.scheme in getproxies() and not proxy_bypass(address.hostname):
        return ""
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname, port), timeout=5).close()
    except OSError as error:
        return f"{uri}: {error}"
    return ""


def _in_child(root: str, uri: str, patience: float) -> str:
    """Replay in a child process; return the error, or an empty string."""
    # Other users of the machine can see the arguments of a process, and the address may be secret.
    command = [sys.executable, "-m", "nightbid.tracking.send", root]
    try:
        done = subprocess.run(  # noqa: S603 - our own module, arguments as a list
            command, capture_output=True, text=True, input=uri, timeout=patience, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{uri} did not answer within {patience:.0f} s"
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    if lines and done.returncode > 0:
        return lines[-1][:300]
    return f"the process that logs {how_it_ended(done.returncode)}"
