"""A real PostgreSQL server on loopback with an empty cluster."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nightbid.free_ports import free_ports

PASSWORD = "p:a/s@s " + secrets.token_hex(8)
"""Has characters that an address must escape."""


class NoServerError(Exception):
    """No server can run on this machine; the message says why."""


@dataclass(frozen=True)
class Server:
    """A PostgreSQL cluster that a test can start and stop."""

    programs: Path
    folder: Path
    port: int
    user: str | None
    """User that runs the server, which refuses root."""

    def run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), *arguments]
        subprocess.run(command, check=True, user=self.user, stdout=subprocess.DEVNULL, cwd="/")

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder} -c fsync=off"
        self.run("pg_ctl", "-D", f"{self.folder}/data", "-o", options,
                 "-l", f"{self.folder}/log", "-w", "start")  # fmt: skip

    def stop(self) -> None:
        """Stop the server at once, as a power failure does."""
        self.run("pg_ctl", "-D", f"{self.folder}/data", "-m", "immediate", "-w", "stop")

    def address(self, database: str, password: str = PASSWORD, port: int = 0) -> str:
        escaped = password.translate(
            {ord(character): f"%{ord(character):02X}" for character in ":/@ "}
        )
        return f"postgresql://nightbid:{escaped}@127.0.0.1:{port or self.port}/{database}"


def programs() -> Path | None:
    """Return the folder of the server's programs, which Debian keeps out of the PATH."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    path = str(installed[-1]) if installed else shutil.which("initdb")
    return Path(path).resolve().parent if path else None


@contextmanager
def serving() -> Iterator[Server]:
    """Serve an empty cluster, as a user who is not root, until the block ends.

    Raises:
        NoServerError: The machine has no PostgreSQL server.
    """
    where = programs()
    if where is None:
        raise NoServerError("no PostgreSQL server here → apt-get install postgresql")
    user = None
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        if os.geteuid() == 0:
            user = next(
                (
                    account.pw_name
                    for account in pwd.getpwall()
                    if account.pw_name in ("postgres", "nobody")
                ),
                None,
            )
            if user is None:
                raise NoServerError("PostgreSQL refuses root, and here is no other user for it")
            shutil.chown(folder, user)
        # Also free while a test has stopped the server.
        server = Server(where, folder, free_ports()[0], user)
        secret = folder / "password"
        secret.write_text(PASSWORD)
        server.run("initdb", "-D", f"{folder}/data", "-U", "nightbid", "--auth=scram-sha-256",
                   f"--pwfile={secret}", "--no-sync")  # fmt: skip
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
