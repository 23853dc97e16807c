"""Runs commands of the product in processes that do not import TensorFlow first.

A command is a separate process, as for a user, with its own arguments, environment, working
folder, streams and exit code, and a test can kill it. It is a fork of a server that has imported
the modules of the stages, which saves a night 12 s of CPU time.
For code that a test writes or changes, set `own_code`: the fork imports Nightbid again from the
folders of its PYTHONPATH, but not the libraries.
The workers of a parallel run are forks too, and use the server of the process that controls them.
All commands of one server share Python's hash seed. To compare the outputs of two processes byte
for byte, start one of them as a plain process.
"""

from __future__ import annotations

import array
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

PYTHON = sys.executable
SERVER = Path(__file__).with_name("preload_server.py")
OF_AIRFLOW = (
    "aiohttp", "alembic", "cadwyn", "fastapi", "flask_appbuilder", "google.cloud.storage",
    "jsonschema", "libcst", "sqlalchemy.ext.asyncio", "uvicorn",
)  # fmt: skip
"""Modules that Airflow imports, without its own modules, which read their settings on import."""
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "GX_ANALYTICS_ENABLED": "false"}
LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""A fork copies an entry per page of memory."""
SHARED = "PRELOADED_SERVER"
"""Environment variable with the address of the server of another process."""
SHIM = """#!{python} -ISu
import sys
sys.path.append({folder!r})
from preloaded import exit_code
sys.exit(exit_code({address!r}, {program!r}, sys.argv, {own_code}))
"""


def ask(
    address: str,
    module: str,
    arguments: list[str],
    env: Mapping[str, str],
    fds: list[int],
    *,
    imports: Sequence[str] = (),
    session: bool = False,
    executable: str = PYTHON,
    own_code: bool = False,
) -> socket.socket:
    """Start a module as a program; the returned socket sends its process id, then its exit code.

    Args:
        address: Socket of the server.
        module: Module, as for `python -m`, or path of a program.
        arguments: Arguments of the program.
        env: All environment variables of the program.
        fds: Standard input, output and error of the program.
        imports: What the server imports first, unless it has.
        session: Whether it leads a session, whose members end with it.
        executable: Value of its `sys.executable`.
        own_code: Whether it imports Nightbid again.
    """
    server = socket.socket(socket.AF_UNIX)
    server.connect(address)
    # A shell's command gets a request to end with its shell; an emulated machine is killed.
    end = signal.SIGTERM if executable == PYTHON else signal.SIGKILL
    request = {"module": module, "arguments": arguments, "env": dict(env), "cwd": os.getcwd(),
               "executable": executable, "own_code": own_code, "end": end,
               "imports": imports, "session": session}  # fmt: skip
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
    body = json.dumps(request).encode()
    server.sendmsg([len(body).to_bytes(4, "big")], [rights])
    server.sendall(body)
    return server


def exit_code(address: str, program: str, command: list[str], own_code: bool) -> int:
    """Run a program with this process's streams and variables, and return its exit code.

    Args:
        address: Socket of the server.
        program: `nightbid`; `python` with `-m MODULE` or a file, and others run as usual; or
            `worker`, a Python with `-c CODE`.
        command: Path of the program's stand-in, then the arguments.
        own_code: See `ask`.
    """
    executable, *arguments = command
    module, env = program, dict(os.environ)
    if program == "python":
        if arguments[:1] == ["-P"]:
            del arguments[0]
        if arguments[:1] == ["-m"]:
            del arguments[0]
        elif not arguments or not arguments[0].endswith(".py"):
            os.execv(sys.executable, [sys.executable, *command[1:]])
        module, *arguments = arguments
    else:
        executable = PYTHON
        if program == "worker":
            # Tests print as into a pipe, so consoles must not take pytest's width.
            env.pop("COLUMNS", None)
            while (module := arguments.pop(0)) != "-c":
                pass
    with ask(
        address, module, arguments, env, [0, 1, 2], executable=executable, own_code=own_code
    ) as server:
        code = int(server.makefile().read().split()[1])
    return code if code >= 0 else 128 - code


class Command:
    """A started command with the part of the `subprocess.Popen` API that tests use."""

    def __init__(
        self, server: socket.socket, stdout: IO[str] | None, stdin: IO[str] | None = None
    ) -> None:
        self._server, self._said = server, server.makefile("rb", buffering=0)
        self.pid = int(self._said.readline())
        self.stdin, self.stdout = stdin, stdout
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, or None while the command runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit code, which is negative after a signal.

        Raises:
            subprocess.TimeoutExpired: The command still runs after this many seconds.
        """
        if self.returncode is None:
            if not select.select([self._server], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("nightbid", timeout or 0)
            self.returncode = int(self._said.readline() or -signal.SIGKILL)
            self._said.close()
            self._server.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Wait until its output ends, then up to `timeout` s for its end, and return the output."""
        text = ""
        if self.stdout and not self.stdout.closed:
            with self.stdout:
                text = self.stdout.read()
        self.wait(timeout)
        return text, None

    def send_signal(self, number: int) -> None:
        """Send a signal unless the command has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End the command as kill -9 does."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Request that the command ends."""
        self.send_signal(signal.SIGTERM)


class Preloaded:
    """The server, which starts with the first command and ends with this process."""

    def __init__(self) -> None:
        self._address = os.environ.get(SHARED, "")
        self._server: subprocess.Popen[bytes] | None = None

    def start(
        self,
        *arguments: str,
        module: str = "nightbid",
        env: Mapping[str, str] | None = None,
        stdout: IO[str] | None = None,
        stderr: IO[str] | None = None,
        imports: Sequence[str] = (),
        session: bool = False,
    ) -> Command:
        """Start a command.

        Args:
            arguments: Arguments of the command.
            module: Module to run, as for `python -m`.
            env: Environment variables; by default those of this process.
            stdout: Standard output; a pipe by default.
            stderr: Standard error; the same as stdout by default.
            imports: What the server imports first, unless it has.
            session: Whether it leads a session, whose members end with it.
        """
        self._run()
        read, write = os.pipe() if stdout is None else (None, stdout.fileno())
        with open(os.devnull) as nothing:
            fds = [nothing.fileno(), write, stderr.fileno() if stderr else write]
            server = ask(
                self._address, module, list(arguments), env or os.environ, fds,
                imports=imports, session=session,
            )  # fmt: skip
        if read is None:
            return Command(server, None)
        os.close(write)
        return Command(server, os.fdopen(read))

    def run(
        self, *arguments: str, module: str = "nightbid", env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, with separate output and errors."""
        with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
            started = self.start(*arguments, module=module, env=env, stdout=stdout, stderr=stderr)
            code = started.wait()
            for stream in (stdout, stderr):
                stream.seek(0)
            return subprocess.CompletedProcess(arguments, code, stdout.read(), stderr.read())

    def supervisor(self, port: int, environment: dict[str, str], log: IO[str]) -> Command:
        """Start a service of an embedded Airflow, as `nightbid_airflow.embedded.services` does."""
        self._run()
        (stdin, ours), (read, stdout) = os.pipe(), os.pipe()
        module = "nightbid_airflow.embedded.supervisor"
        fds = [stdin, stdout, log.fileno()]
        server = ask(
            self._address, module, [str(port)], environment, fds, imports=OF_AIRFLOW, session=True
        )
        os.close(stdin)
        os.close(stdout)
        return Command(server, os.fdopen(read), os.fdopen(ours, "w"))

    def shim(self, path: Path, program: str = "nightbid", *, own_code: bool = False) -> None:
        """Write a `nightbid` or `python` program for scripts and other processes."""
        self._run()
        path.write_text(
            SHIM.format(
                python=PYTHON, folder=str(SERVER.parent), address=self._address,
                program=program, own_code=own_code,
            )
        )  # fmt: skip
        path.chmod(0o755)

    def workers(self) -> Path:
        """Return a Python for the workers of a parallel run, which then use this server."""
        self._run()
        path = Path(self._address).with_name("worker")
        self.shim(path, "worker")
        os.environ[SHARED] = self._address
        return path

    def _run(self) -> None:
        if not self._address:
            self._address = str(Path(tempfile.mkdtemp(prefix="nightbid-")) / "socket")
            self._server = subprocess.Popen(
                [PYTHON, str(SERVER), self._address],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**QUIET, **LARGE_PAGES, **os.environ},
                start_new_session=True,
            )
            assert self._server.stdout is not None
            assert self._server.stdout.readline() == b"ready\n"

    def end(self) -> None:
        """End the server and every command that still runs."""
        if self._server is not None:
            assert self._server.stdin is not None
            self._server.stdin.close()
            self._server.wait(300)
            shutil.rmtree(Path(self._address).parent)


COMMANDS = Preloaded()
"""The server of this pytest process."""
