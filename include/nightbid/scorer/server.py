"""The scorer's processes: one per core on one address, restarted after a crash."""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from nightbid.errors import ConfigError
from nightbid.scorer.access import Access

LOG = logging.getLogger(__name__)
BACKLOG = 2048
"""Maximum number of connections waiting to be accepted, per process."""
GRACE_SECONDS = 30
"""Seconds for requests in progress to finish when the scorer stops."""
SHADOW_SECONDS = 5
"""Seconds between the end of a shadow process and its restart."""
START_SECONDS = 120
"""Seconds to wait for a process to load its model before the scorer is reported as started."""
SILENT_SECONDS = 60
"""Seconds without a sign of life after which a process is replaced. On a busy machine, a new
process may need many seconds to import its modules."""

SWITCH_SECONDS = 0.0005
"""Maximum time that a thread holds the GIL while another one waits for it."""


@dataclass(frozen=True)
class ScorerSettings:
    """Settings for every process of a scorer."""

    workspace: str
    pipeline: str
    bundle: str = ""
    """Folder of a bundle to serve instead of the champion; empty follows the champion."""
    poll_seconds: float = 2.0
    queue_ms: float = 50.0
    client_seconds: float = 10.0
    """Seconds for a client to send a request, to read its answer, or to finish a TLS handshake."""
    access: Access = field(default_factory=Access)
    shadow: str = ""
    """Bundle to score in the shadow: `previous`, `candidate` or a bundle's folder; empty: none."""
    shadow_log: str = ""
    """File that receives a line per request that the shadow scored; empty: no log."""
    shadow_key: tuple[str, ...] = ()
    """Request columns that identify a row of the logs, to be written to `shadow_log`."""


class ReusedSocket(socket.socket):
    """A bound socket that is re-created with the same address in a child process.

    The kernel then distributes new connections over the processes (SO_REUSEPORT).
    """

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle the address instead of the file descriptor."""
        host, port = self.getsockname()[:2]
        return reuse, (host, port)


def reuse(host: str, port: int) -> ReusedSocket:
    """Bind a socket to an address that may be shared with other sockets of this user."""
    bound = ReusedSocket(_family(host), socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind((host, port))
    return bound


def listen(host: str, port: int) -> ReusedSocket:
    """Reserve the address before anything is loaded.

    Raises:
        ConfigError: The address is in use, or does not belong to this machine.
    """
    try:
        with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))  # fails if another server uses it, even a scorer
        return reuse(host, port)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port} ({error.strerror})",
            where="serve",
            hint="choose another --port",
        ) from error


def serve(
    settings: ScorerSettings,
    listener: ReusedSocket,
    *,
    processes: int,
    started: Callable[[], None] = lambda: None,
) -> None:
    """Serve until this process is stopped; requests under way are answered first.

    Args:
        settings: Settings for each process.
        listener: Socket with the address, from `listen`.
        processes: Number of processes; each one loads the model.
        started: Called when all processes are ready.
    """
    folder = Path(tempfile.mkdtemp(prefix="nightbid-scorer-"))
    (folder / "metrics").mkdir()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder / "metrics")
    config = uvicorn.Config(
        functools.partial(make_application, settings, folder),
        factory=True,
        http="nightbid.scorer.protocol:Protocol",
        ws="none",
        loop="nightbid.scorer.protocol:Loop",
        ssl_certfile=settings.access.certificate or None,
        ssl_keyfile=settings.access.key or None,
        workers=processes,
        log_level="warning",
        access_log=False,
        proxy_headers=False,  # a client could fake its address in its own headers
        backlog=BACKLOG,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_worker_healthcheck=START_SECONDS,
    )
    if settings.shadow:
        threading.Thread(target=_keep_shadow, args=(settings, folder), daemon=True).start()
    try:
        _Supervisor(config, listener, started).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Supervisor(Multiprocess):
    """uvicorn's supervisor with a callback when all processes are ready.

    uvicorn would end a process that does not answer for seconds, even a new one that still imports
    its modules, and would wait for that answer before it handles a signal.
    """

    def __init__(
        self, config: uvicorn.Config, listener: ReusedSocket, started: Callable[[], None]
    ) -> None:
        super().__init__(config, [listener])
        self._started = started
        self._heard: dict[Process, float] = {}

    def init_processes(self) -> None:
        super().init_processes()
        for process in self.processes:
            process.wait_until_ready(START_SECONDS, self.should_exit)
        self._started()

    def keep_subprocess_alive(self) -> None:
        """Replace processes that ended or hang."""
        for at, process in enumerate(self.processes):
            if process.process.is_alive() and not self._is_silent(process):
                continue
            process.kill()
            process.join()
            others = [other for other in self.processes if other.process.is_alive()]
            if process.exitcode == STARTUP_FAILURE and not others:
                self.should_exit.set()
                return
            LOG.warning("process %d ended and is replaced", process.pid)
            self._heard.pop(process, None)
            self.processes[at] = Process(self.config, self.sockets)
            self.processes[at].start()

    def _is_silent(self, process: Process) -> bool:
        # Never waits: an answer to this look is read by the next one.
        with contextlib.suppress(OSError, EOFError):
            process.parent_conn.send(b"ping")
            while process.parent_conn.poll():
                process.parent_conn.recv()
                self._heard[process] = time.monotonic()
        return time.monotonic() - self._heard.setdefault(process, time.monotonic()) > SILENT_SECONDS


def make_application(settings: ScorerSettings, folder: Path) -> Any:
    """Create the application of one process; called in that process."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    # A thread that loads a bundle must not keep the event loop waiting for the GIL.
    sys.setswitchinterval(SWITCH_SECONDS)
    from nightbid.scorer.follow import Follower, OneBundle
    from nightbid.scorer.metrics import WorkerStates
    from nightbid.scorer.protocol import Protocol
    from nightbid.scorer.service import Service
    from nightbid.storage.workspace import Workspace

    Protocol.client_seconds = settings.client_seconds
    follower: Follower | OneBundle
    if settings.bundle:
        follower = OneBundle(Path(settings.bundle), settings.pipeline)
    else:
        follower = Follower(Workspace(settings.workspace), settings.pipeline, folder / "turn")
    service = Service(
        follower,
        WorkerStates(folder),
        poll_seconds=settings.poll_seconds,
        queue_ms=settings.queue_ms,
        access=settings.access,
        has_shadow=bool(settings.shadow),
    )
    return service.application()


def _keep_shadow(settings: ScorerSettings, folder: Path) -> None:
    """Run the shadow's process, and restart it when it exits."""
    from nightbid.scorer import shadow

    arguments = (settings.workspace, settings.pipeline, settings.shadow, folder,
             settings.shadow_log, settings.poll_seconds, settings.shadow_key)  # fmt: skip
    while True:
        process = multiprocessing.get_context("spawn").Process(
            target=shadow.run, args=arguments, daemon=True
        )
        process.start()
        process.join()
        time.sleep(SHADOW_SECONDS)


def end_with_parent() -> None:
    """Stop this process when its supervisor exits."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
