"""The server of preloaded.py: imports the heavy libraries, then forks once for each command."""

from __future__ import annotations

import array
import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from nightbid.bidding.auctions import Auctions, Rules
from nightbid.bidding.replay import replay
from nightbid.cli.output import terminal
from nightbid.gates.expectations import RangeRule, validate
from nightbid.gates.measurements import Measurement
from nightbid.models.runtime import _without_chatter
from nightbid.night.source import code_of
from nightbid.night.stages import NIGHT
from nightbid.report.pages import _environment
from tqdm import tqdm

LIBRARIES = (
    "google.cloud.aiplatform_v1", "great_expectations.expectations",
    "mlflow.store.tracking.sqlalchemy_store", "nightbid.models.boosting", "optuna",
    "pyarrow.dataset", "rich.console", "tensorboard.summary.v2", "tensorflow",
    "tf2onnx.tfonnx", "typer", "upath",
)  # fmt: skip
"""Modules that commands import in addition to those of the stages, mostly within functions.

No import starts a thread or a process, so a fork is safe.
"""

HEAVY = {
    "google.cloud.aiplatform_v1", "mlflow.store.tracking.sqlalchemy_store",
    "nightbid.featurize.stage", "nightbid.models.boosting", "nightbid.training.stage", "optuna",
    "tensorboard.summary.v2", "tensorflow", "tf2onnx.tfonnx",
}  # fmt: skip
"""Modules that `make quick` leaves out: two thirds of the time, and its tests need none."""

OF_COMMANDS = (
    "nightbid.bidding.night_replay",
    "nightbid.cli.app", "nightbid.cli.arrival", "nightbid.cli.bids", "nightbid.cli.cost",
    "nightbid.cli.data", "nightbid.cli.gates", "nightbid.cli.incremental", "nightbid.data.folder",
    "nightbid.data.simulator.source", "nightbid.data_check.saved", "nightbid.preflight",
    "nightbid.report.write", "rich._emoji_codes", "typer._adapters",
    "nightbid.scorer.server", "rich.markdown", "upath.implementations.local",
)  # fmt: skip
"""Modules of the commands themselves, half of the CPU time of a short command."""

PATIENCE = 2.0
"""Seconds between checks that the starter still runs."""


@dataclass
class Command:
    """A running fork and the client that has asked for it."""

    client: socket.socket
    end: int
    """Signal that ends the fork after its client has ended."""
    leads: bool
    """Whether it leads a session, whose members it ends first."""
    is_asked: bool = True
    """Whether its client is still connected."""


def receive(client: socket.socket) -> tuple[dict, list[int]] | None:
    """Read the request for a command and its streams; None if the client has ended before."""
    room = socket.CMSG_SPACE(3 * array.array("i").itemsize)
    size, rights, _, _ = client.recvmsg(4, room)
    if not rights:
        return None
    fds = array.array("i")
    fds.frombytes(rights[0][2])
    left, body = int.from_bytes(size, "big"), b""
    while len(body) < left:
        part = client.recv(left - len(body))
        if not part:
            for fd in fds:
                os.close(fd)
            return None
        body += part
    return json.loads(body), list(fds)


def become(asked: dict, fds: list[int], consoles: list[ModuleType]) -> None:
    """Turn this process into one that was started for the command.

    Args:
        asked: The request.
        fds: Its standard input, output and error.
        consoles: Modules with a console. (To look for them here would copy each module's page.)
    """
    if asked["session"]:
        os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for at, fd in enumerate(fds):
        os.dup2(fd, at)
        os.close(fd)
    os.environ.clear()
    os.environ.update(asked["env"])
    time.tzset()
    os.chdir(asked["cwd"])
    # This matches `python -m`.
    sys.path[0] = asked["cwd"]
    sys.path[1:1] = filter(None, asked["env"].get("PYTHONPATH", "").split(os.pathsep))
    sys.argv = [asked["module"], *asked["arguments"]]
    sys.executable = asked["executable"]
    if asked["own_code"]:
        for name in [name for name in sys.modules if name.partition(".")[0] == "nightbid"]:
            del sys.modules[name]
    # These have read COLUMNS, and whether the output is a terminal, of the server.
    for module in consoles:
        module.console = terminal()
    tempfile.tempdir = None


def serve(address: str) -> dict:
    """Fork for each requested command; this returns only in the forks."""
    starter = os.getppid()
    stages = (stage.function.partition(":")[0] for stage in NIGHT)
    left_out = HEAVY if "PRELOADED_LIGHT" in os.environ else set()
    with _without_chatter():
        for name in (*stages, *LIBRARIES, *OF_COMMANDS):
            if name not in left_out:
                importlib.import_module(name)
    # What every night computes once per process: digests of the code, compiled templates, and the
    # compiled loop of replays.
    for stage in NIGHT:
        code_of([stage.function])
    for name in _environment().list_templates():
        _environment().get_template(name)
    consoles = [
        module
        for name, module in sys.modules.items()
        if name.startswith("nightbid.cli.") and hasattr(module, "console")
    ]
    replay(Auctions(np.ones(1), np.ones(1)), np.ones(1), Rules())
    # And the page of a gate, whose templates Great Expectations compiles; without a thread.
    interval, tqdm.monitor_interval = tqdm.monitor_interval, 0
    quantity = Measurement("rows", "", "2026-01-01", 1.0)
    validate([quantity], {quantity.statistic: "rows"}, [RangeRule("rows", (0, None), "stop")])
    tqdm.monitor_interval = interval
    assert threading.active_count() == 1, "a fork is safe"
    # Forks collect garbage only among their own objects and do not copy these pages.
    gc.collect()
    gc.freeze()
    running: dict[int, Command] = {}
    """Process id → its command."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen(20)
    woken, wake = socket.socketpair()
    for channel in (woken, wake):
        channel.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    print("ready", flush=True)  # noqa: T201  # the starter waits for it
    while True:
        asked = [command.client for command in running.values() if command.is_asked]
        readable, _, _ = select.select([listening, woken, sys.stdin, *asked], [], [], PATIENCE)
        # After a kill of the starter, one of its forks may hold the other end of standard input.
        if sys.stdin in readable or os.getppid() != starter:
            for pid, command in running.items():
                os.kill(pid, signal.SIGTERM if command.leads else signal.SIGKILL)
            os._exit(0)
        for pid, command in running.items():
            if command.is_asked and command.client in readable:
                command.is_asked = False
                os.kill(pid, command.end)
        if woken in readable:
            woken.recv(1024)
            while running and (ended := os.waitpid(-1, os.WNOHANG))[0]:
                with running.pop(ended[0]).client as client, contextlib.suppress(OSError):
                    client.sendall(b"%d\n" % os.waitstatus_to_exitcode(ended[1]))
        if listening in readable:
            client, _ = listening.accept()
            received = receive(client)
            if received is None:
                client.close()
                continue
            request, fds = received
            for name in request["imports"]:
                importlib.import_module(name)
            pid = os.fork()
            if not pid:
                clients = [command.client for command in running.values()]
                for channel in (listening, woken, wake, client, *clients):
                    channel.close()
                become(request, fds, consoles)
                return request
            for fd in fds:
                os.close(fd)
            running[pid] = Command(client, request["end"], request["session"])
            # A client that has ended meanwhile is noticed above.
            with contextlib.suppress(OSError):
                client.sendall(b"%d\n" % pid)


def run(module: str) -> int:
    """Run a module, a file or (`-c`) code with threads and exit handlers; return the exit code."""
    code = 0
    try:
        if module == "-c":
            sys.modules["__main__"] = ModuleType("__main__")
            exec(sys.argv.pop(1), vars(sys.modules["__main__"]))
        elif module.endswith(".py"):
            runpy.run_path(module, run_name="__main__")
        else:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else bool(error.code)
        if isinstance(error.code, str):
            sys.stderr.write(error.code + "\n")
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    asked = serve(sys.argv[1])
    os._exit(run(asked["module"]))
