"""Fixtures that every test may use."""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest

ROOT = Path(__file__).resolve().parents[1]
# The emulators are programs of their own, which tests of several kinds start.
sys.path.append(str(ROOT / "tests" / "cloud"))
# Test files that run side by side are given a narrow terminal; tests print as into a pipe.
os.environ.pop("COLUMNS", None)
PASSWORD = "p:a/s@s " + secrets.token_hex(8)
"""With characters that an address must escape."""


@pytest.fixture(scope="session")
def kuairand_folder() -> Path:
    """The real KuaiRand nights, where they are present."""
    folder = ROOT.parent / "shared" / "data" / "kuairand_std_14d"
    if not folder.exists():
        pytest.skip(f"no KuaiRand files at {folder}")
    return folder


# Of one file: while it is open an event loop runs in this thread, which others need for theirs.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A Chromium, where there is one."""
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
        except Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield started
        started.close()


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A chat's webhook on loopback: its address, and the messages that it took."""
    taken: list[dict[str, Any]] = []

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Stay quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Webhook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/hook", taken
        server.shutdown()


@dataclass(frozen=True)
class Server:
    """A real PostgreSQL cluster on the loopback interface, for as long as the tests last."""

    programs: Path
    folder: Path
    port: int
    user: str | None
    """Who runs it: the server refuses root."""

    def run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), *arguments]
        subprocess.run(command, check=True, user=self.user, stdout=subprocess.DEVNULL, cwd="/")

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder} -c fsync=off"
        self.run("pg_ctl", "-D", f"{self.folder}/data", "-o", options,
                 "-l", f"{self.folder}/log", "-w", "start")  # fmt: skip

    def stop(self) -> None:
        self.run("pg_ctl", "-D", f"{self.folder}/data", "-m", "immediate", "-w", "stop")

    def address(self, database: str, password: str = PASSWORD) -> str:
        escaped = password.translate({ord(each): f"%{ord(each):02X}" for each in ":/@ "})
        return f"postgresql://nightbid:{escaped}@127.0.0.1:{self.port}/{database}"


def programs() -> Path | None:
    """Where the server's programs lie: Debian keeps them out of the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    path = str(found[-1]) if found else shutil.which("initdb")
    return Path(path).resolve().parent if path else None


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """Serve an empty cluster, as a user who is not root."""
    where = programs()
    if where is None:
        pytest.skip("no PostgreSQL server here → apt-get install postgresql")
    user = None
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    if os.geteuid() == 0:
        user = next(
            (each.pw_name for each in pwd.getpwall() if each.pw_name in ("postgres", "nobody")),
            None,
        )
        if user is None:
            pytest.skip("PostgreSQL refuses root, and there is no user postgres or nobody here")
        shutil.chown(folder, user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Server(where, folder, port, user)
    secret = folder / "password"
    secret.write_text(PASSWORD)
    try:
        server.run("initdb", "-D", f"{folder}/data", "-U", "nightbid", "--auth=scram-sha-256",
                   f"--pwfile={secret}", "--no-sync")  # fmt: skip
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def database(postgres: Server) -> str:
    """Address of a new, empty database."""
    name = f"costs_{uuid.uuid4().hex}"
    with psycopg.connect(postgres.address("postgres"), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return postgres.address(name)


@pytest.fixture
def password() -> str:
    """What must be seen nowhere."""
    return PASSWORD
