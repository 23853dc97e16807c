"""Fixtures that every test may use."""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]
# The emulators are separate programs, which several groups of tests start.
sys.path.append(str(ROOT / "tests" / "cloud"))
# A slow machine fails no property; fixtures of a test serve all of its examples.
settings.register_profile(
    "nightbid",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("nightbid")
# The libraries' objects are permanent: collecting them takes a tenth of the CPU time.
gc.set_threshold(20_000)
sys.path.append(str(ROOT / "tests" / "support"))
# Parallel test files get a narrow terminal; tests print as into a pipe.
os.environ.pop("COLUMNS", None)
# Stages have a price on every day; those of the package end, and are tested at fixed days.
os.environ["NIGHTBID_PRICES"] = str(ROOT / "tests" / "support" / "prices.yaml")
# Temporary folders in memory save waits for the disk.
MEMORY = Path("/dev/shm")
if "TMPDIR" not in os.environ and MEMORY.is_dir() and os.access(MEMORY, os.W_OK):
    disk = os.statvfs(MEMORY)
    if disk.f_bavail * disk.f_frsize > 8 << 30 and not disk.f_flag & os.ST_NOEXEC:
        os.environ["TMPDIR"] = str(MEMORY)
        tempfile.tempdir = None
# The lines above set the path of these imports.
from browsers import browser  # noqa: E402
from emulator.postgres import PASSWORD, NoServerError, Server, serving  # noqa: E402
from once import made_once  # noqa: E402
from preloaded import COMMANDS  # noqa: E402

SHARED = ("tests/dags/pages/", "tests/ui/", "tests/unit/report/", "tests/unit/serving/")
"""Folders whose files share a server: in parallel runs, one worker runs a whole folder."""


def pytest_cmdline_main(config: pytest.Config) -> None:
    """Start the workers of a parallel run as forks of a process that has imported the libraries."""
    # Coverage counts the lines that an import runs, too.
    if config.getoption("numprocesses", None) and not config.getoption("cov_source", None):
        config.option.tx = [f"popen//python={COMMANDS.workers()}"] * len(config.option.tx)


def pytest_unconfigure() -> None:
    """Stop the server of preloaded.py if this process has started it."""
    COMMANDS.end()


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each worker whole files, and whole folders for those in `SHARED`."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class ByServer(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return next((folder for folder in SHARED if nodeid.startswith(folder)), "") or (
                super()._split_scope(nodeid)
            )

    return ByServer(config, log)


def pytest_collection_finish() -> None:
    """Exclude the imported objects from later garbage collections, which took seconds."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def preloaded_python(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let `python -m MODULE` start with imported libraries; see preloaded.py."""
    path = tmp_path_factory.mktemp("bin") / "python"
    COMMANDS.shim(path, "python")
    monkeypatch.setattr(sys, "executable", str(path))


@pytest.fixture(scope="session")
def kuairand_folder() -> Path:
    """Return the folder of the real KuaiRand nights, or skip the test."""
    folder = ROOT.parent / "shared" / "data" / "kuairand_std_14d"
    if not folder.exists():
        pytest.skip(f"no KuaiRand files at {folder}")
    return folder


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Start a Chromium for a file."""
    with browser() as started:
        yield started


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Serve a chat webhook on loopback; return its address and the received messages."""
    taken: list[dict[str, Any]] = []

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Webhook) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/hook", taken
        server.shutdown()


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty MLflow database to copy, made once, as its tables take seconds."""

    def make(folder: Path) -> None:
        from mlflow.tracking import MlflowClient

        folder.mkdir()
        MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db").search_experiments()

    return made_once(tmp_path_factory, "mlflow", make) / "mlflow.db"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """Serve an empty cluster, as a user who is not root."""
    try:
        with serving() as server:
            yield server
    except NoServerError as error:
        pytest.skip(str(error))


@pytest.fixture
def database(postgres: Server) -> str:
    """Return the address of a new, empty database."""
    name = f"costs_{uuid.uuid4().hex}"
    with psycopg.connect(postgres.address("postgres"), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return postgres.address(name)


@pytest.fixture
def password() -> str:
    """Return a password that must appear nowhere."""
    return PASSWORD
