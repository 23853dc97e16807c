"""Logging runs to MLflow without ever holding up or failing a night.

A run is first put into a queue on disk, then a child process logs all that waits. MLflow is slow
to import, its store may be down, hang or be of another version: whatever happens to the child,
the night goes on and the queue is tried again after the next night, or by `nightbid track`.
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

from nightbid.config.settings import Settings
from nightbid.night.record import RunRecord
from nightbid.report.run_view import RunView
from nightbid.storage.workspace import Workspace
from nightbid.tracking.logged import Logged
from nightbid.tracking.payload import Payload
from nightbid.tracking.queue import Queue

LOG = logging.getLogger(__name__)
PATIENCE = 120.0
"""Seconds that a night waits for its logging, at most."""


@dataclass(frozen=True)
class Tracked:
    """What became of a run's logging."""

    state: Literal["logged", "queued", "lost", "off", "unfinished", "idle"]
    detail: str = ""

    def __str__(self) -> str:
        """One line for a person; empty where there is nothing to say."""
        return {
            "logged": f"tracked: {self.detail}",
            "queued": f"not tracked yet, queued: {self.detail} → later: `nightbid track --replay`",
            "lost": f"not tracked: {self.detail} → later: `nightbid track PIPELINE RUN`",
        }.get(self.state, "")


def tracking_uri(settings: Settings, workspace: Workspace) -> str:
    """Address of the MLflow store; empty where nothing is tracked."""
    if settings.tracking is not None:
        return settings.tracking
    if not workspace.is_local:
        return ""
    return f"sqlite:///{Path(str(workspace.root)) / 'tracking' / 'mlflow.db'}"


def log_run(run: RunRecord, settings: Settings, *, patience: float = PATIENCE) -> Tracked:
    """Log a run that has ended, and whatever waits from before. Never raises.

    Args:
        run: done, stopped or failed; one that is still going is left alone.
        settings: name the store.
        patience: seconds to wait for the store.
    """
    queued = queue_run(run, settings)
    return deliver(run.workspace, settings, patience=patience) if queued is None else queued


def queue_run(run: RunRecord, settings: Settings) -> Tracked | None:
    """Put a run that has ended into the queue, which takes no time. Never raises.

    A run that was logged before, and has found nothing else since, stays as it was logged.

    Returns:
        None if it now waits for `deliver`; else why it does not.
    """
    try:
        uri = tracking_uri(settings, run.workspace)
        if not uri:
            return Tracked("off")
        if RunView(run).state == "running":
            return Tracked("unfinished")
        payload, before = Payload.of(run), Logged.of(run.folder)
        if before is not None and (before.store, before.content) == (uri, payload.content):
            return Tracked("idle")
        Queue(run.workspace).put(payload)
    except Exception as error:
        # A night that is judged and promoted stays so, whatever its bookkeeping does.
        LOG.warning("run %s is not tracked", run.run_id, exc_info=True)
        return Tracked("lost", f"{run.run_id}: {type(error).__name__}: {error}")
    return None


def deliver(workspace: Workspace, settings: Settings, *, patience: float = PATIENCE) -> Tracked:
    """Log all that waits, in a process of its own. Never raises.

    Args:
        workspace: whose queue.
        settings: name the store.
        patience: seconds to wait for the store.
    """
    uri = tracking_uri(settings, workspace)
    if not uri:
        return Tracked("off")
    try:
        if not Queue(workspace).waiting():
            return Tracked("idle")
        failure = _refused(uri) or _in_child(str(workspace.root), uri, patience)
    except Exception as error:
        LOG.warning("the tracking queue was not logged", exc_info=True)
        failure = f"{type(error).__name__}: {error}"
    return Tracked("queued", failure) if failure else Tracked("logged", uri)


def replay(workspace: Workspace, uri: str) -> list[str]:
    """Log every waiting run, in this process. The first failure ends it; the rest waits on.

    Returns:
        Ids of the runs that were logged.

    Raises:
        Exception: what the store said.
    """
    from nightbid.tracking.store import Store

    queue, logged = Queue(workspace), []
    with queue.alone():
        waiting = queue.waiting()
        store = Store(uri, workspace) if waiting else None
        for payload in waiting:
            assert store is not None
            found = store.log(payload)
            noted = found.model_copy(update={"content": payload.content})
            noted.save(workspace, payload.experiment, payload.run_id)
            queue.done(payload)
            logged.append(payload.run_id)
    return logged


def _refused(uri: str) -> str:
    """Why a server cannot even be connected to: told before MLflow's seconds of start-up."""
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
    """Replay in a process of its own; says why it failed, or nothing."""
    command = [sys.executable, "-m", "nightbid.tracking.send", root, uri]
    try:
        done = subprocess.run(  # noqa: S603 - our own module, arguments as a list
            command, capture_output=True, text=True, timeout=patience, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{uri} did not answer within {patience:.0f} s"
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[-1][:300] if lines else f"exit code {done.returncode}"
