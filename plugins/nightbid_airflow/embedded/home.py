"""The folder and the environment variables of the embedded Airflow."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nightbid.config.settings import Settings
from nightbid.errors import ConfigError
from nightbid.free_ports import free_ports

ROOT = Path(__file__).resolve().parents[3]
"""Root folder of the project, with `dags/` and `plugins/`."""
USER = "admin"
PARALLELISM = 2
"""Maximum number of parallel tasks. Only the two trainings can overlap, and each stage uses several
threads."""
SHARED_SETTINGS = ROOT / "compose" / "airflow.env"
"""Airflow's settings that the embedded Airflow and the Compose stack share."""


class Home:
    """An Airflow home: database, logs, secrets and a lock.

    Args:
        folder: Folder of the home; created if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.logs = self.folder / "logs"

    @classmethod
    def beside(cls, settings: Settings) -> Home:
        """Get the home next to a local workspace, or in `.nightbid/` if it is a bucket."""
        if "://" in settings.workspace:
            return cls(Path(".nightbid/airflow"))
        return cls(Path(settings.workspace).expanduser().resolve().parent / "airflow")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock this AIRFLOW_HOME; two schedulers would corrupt the SQLite database.

        Raises:
            ConfigError: Another embedded Airflow holds the lock.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a+") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                stream.seek(0)
                raise ConfigError(
                    f"an embedded Airflow is already running (process {stream.read().strip()})",
                    where=str(self.folder),
                    hint="stop it, or set another NIGHTBID_WORKSPACE",
                ) from None
            stream.truncate(0)
            stream.write(str(os.getpid()))
            stream.flush()
            yield

    def environment(self, settings: Settings, port: int, schedules: bool) -> dict[str, str]:
        """Get the environment variables of all components, in addition to the caller's own.

        Args:
            settings: Settings of the installation.
            port: Port of the API server.
            schedules: Whether nights also start by their cron expressions. An unpaused schedule
                first runs its last missed night, and a manual run waits for that.
        """
        keys = self._secrets()
        workspace = settings.workspace
        if "://" not in workspace:
            # Tasks may run in another working directory.
            workspace = str(Path(workspace).expanduser().resolve())
        shared = _shared_settings()
        return {
            # Variables of the caller's own take precedence, except for the executor.
            **shared,
            **os.environ,
            "AIRFLOW__CORE__EXECUTOR": shared["AIRFLOW__CORE__EXECUTOR"],
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(ROOT / "plugins"), os.environ.get("PYTHONPATH", "")])
            ),
            "NIGHTBID_WORKSPACE": workspace,
            "NIGHTBID_PIPELINES": str(settings.pipelines.resolve()),
            "NIGHTBID_CACHE": str(settings.cache.resolve()),
            "AIRFLOW_HOME": str(self.folder),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
            "AIRFLOW__CORE__PARALLELISM": str(PARALLELISM),
            "AIRFLOW__CORE__FERNET_KEY": keys["fernet_key"],
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self._passwords),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address(port)}/execution/",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.folder / 'airflow.db'}",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(self.logs),
            "AIRFLOW__API__BASE_URL": address(port),
            "AIRFLOW__API__SECRET_KEY": keys["secret_key"],
            "AIRFLOW__API_AUTH__JWT_SECRET": keys["jwt_secret"],
            "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": str(schedules),
        }

    def password(self) -> str:
        """Get the password of the only user, which the first start generates."""
        self._secrets()
        known: dict[str, str] = json.loads(self._passwords.read_text())
        return known[USER]

    @property
    def _passwords(self) -> Path:
        return self.folder / "passwords.json"

    def _secrets(self) -> dict[str, str]:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "secrets.json"
        if not path.exists():
            _write_private(
                path,
                {
                    "fernet_key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
                    "secret_key": secrets.token_hex(32),
                    "jwt_secret": secrets.token_hex(32),
                },
            )
            _write_private(self._passwords, {USER: secrets.token_urlsafe(9)})
        keys: dict[str, str] = json.loads(path.read_text())
        return keys


def _shared_settings() -> dict[str, str]:
    lines = SHARED_SETTINGS.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def _write_private(path: Path, content: dict[str, str]) -> None:
    path.touch(mode=0o600)
    path.write_text(json.dumps(content))


def address(port: int) -> str:
    """Get the URL of the API and the pages, which only this machine can reach."""
    return f"http://127.0.0.1:{port}"


def free_port(requested: int = 0) -> int:
    """Pick a free port on this machine.

    Args:
        requested: Port to check; 0: any free port.

    Raises:
        ConfigError: The port is in use.
    """
    if not requested:
        return free_ports()[0]
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", requested))
        except OSError as error:
            raise ConfigError(
                f"cannot listen on port {requested} ({error.strerror})",
                where="--port",
                hint="choose another port, for example: make ui PORT=8090",
            ) from error
    return requested
