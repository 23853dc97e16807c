"""Migration of a copy of Airflow's metadata database to the candidate's version.

The installation's own database is only read. The copy is a SQLite file in the cache, or a separate
database on the same PostgreSQL server; it is deleted afterwards.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from pydantic import BaseModel, ConfigDict

from nightbid.config.settings import Settings
from nightbid.counts import counted
from nightbid.errors import StageError
from nightbid.processes import how_it_ended
from nightbid.rehearse.environments import Environment
from nightbid.rehearse.sides import Sides

CONNECTION = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
HIDDEN = "airflow-db-not-allowed"
"""Text that Airflow gives to its tasks instead of the database address."""
WAIT = 10
"""Timeout of a connection to a PostgreSQL server, in seconds."""


class Migrated(BaseModel):
    """Result of the migration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    what: str = ""
    """Description of the migrated database, without a password."""
    tables: int = 0
    rows: int = 0
    """Number of rows of the copy before the candidate migrated it."""
    seconds: float = 0.0
    error: str = ""
    fewer: tuple[str, ...] = ()
    """Descriptions of tables that lost rows."""
    not_copied: str = ""
    """Why a new database was migrated instead of a copy; empty if there was none to copy."""


@dataclass(frozen=True)
class DatabaseCopy:
    """A copied database, which may be changed."""

    address: str
    """Address of the copy; secret, because it may contain a password."""
    what: str

    def rows(self) -> dict[str, int]:
        """Count the rows of each table."""
        if self.address.startswith("sqlite"):
            with closing(sqlite3.connect(_file_of(self.address))) as base:
                names = [row[0] for row in base.execute(
                    "SELECT name FROM sqlite_master WHERE type = 'table'")]  # fmt: skip
                return {
                    name: base.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]  # noqa: S608
                    for name in names
                }
        with _connect(_postgres(self.address)) as server:
            tables = server.execute(
                "SELECT schemaname, tablename FROM pg_tables"
                " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
            ).fetchall()
            counted = {}
            for schema, name in tables:
                row = server.execute(
                    sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, name))
                ).fetchone()
                counted[name if schema == "public" else f"{schema}.{name}"] = row[0] if row else 0
            return counted


def address_of(settings: Settings) -> str:
    """Get the address of this installation's metadata database; empty if it is unknown.

    It is taken from `NIGHTBID_AIRFLOW_DATABASE`, from Airflow's own variable, from the folder
    `AIRFLOW_HOME`, or from the embedded Airflow of a local workspace.
    """
    if settings.airflow_database is not None:
        return settings.airflow_database.get_secret_value()
    address = os.environ.get(CONNECTION, "")
    if address and not address.startswith(HIDDEN):
        return address
    homes = [Path(home)] if (home := os.environ.get("AIRFLOW_HOME")) else []
    if "://" not in settings.workspace:
        homes.append(Path(settings.workspace).resolve().parent / "airflow")
    database = next(
        (folder / "airflow.db" for folder in homes if (folder / "airflow.db").exists()), None
    )
    return f"sqlite:///{database.resolve()}" if database else ""


def migrate_copy(
    sides: Sides, folder: Path, address: str, present: Environment, candidate: Environment
) -> Migrated:
    """Copy the metadata, and migrate the copy to the candidate's version of Airflow.

    Args:
        sides: Runner that runs and meters `airflow db migrate`.
        folder: Folder for the copy and the logs; its content is deleted first.
        address: Address of the database in SQLAlchemy's form; empty: a new database is migrated.
        present: Present environment, which first migrates the copy to its own version; this changes
            nothing if the installation is up to date.
        candidate: Environment whose migration is tried.

    Raises:
        BudgetExceeded: The budget of the rehearsal is used up.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    not_copied = ""
    if address:
        try:
            with _copied(address, folder, sides.plan.name) as copy:
                return _migrate(sides, folder, copy, present, candidate)
        except (StageError, OSError, sqlite3.Error, psycopg.Error) as error:
            not_copied = _one_line(error)
    new = DatabaseCopy(f"sqlite:///{folder / 'new.db'}", "a new database")
    done = _migrate(sides, folder, new, present, candidate)
    return done.model_copy(update={"not_copied": not_copied})


def _migrate(
    sides: Sides, folder: Path, copy: DatabaseCopy, present: Environment, candidate: Environment
) -> Migrated:
    rows: dict[str, int] = {}
    start = time.monotonic()
    for name, environment in (("present", present), ("candidate", candidate)):
        rows, start = (copy.rows() if name == "candidate" else {}), time.monotonic()
        variables = {"AIRFLOW_HOME": str(folder), CONNECTION: copy.address,
                     "AIRFLOW__CORE__LOAD_EXAMPLES": "false"}  # fmt: skip
        code = sides.program(folder, environment, ["-m", "airflow", "db", "migrate"], **variables)
        if code:
            return Migrated(
                what=copy.what,
                error=f"{copy.what}: `airflow db migrate` of the {name} version"
                f" {how_it_ended(code, folder / 'log')}",
            )
    after = copy.rows()
    fewer = [
        f"{table}: {counted(count, 'row')} before, "
        + (f"{after[table]:,} after" if table in after else "no such table after")
        for table, count in sorted(rows.items())
        if after.get(table, 0) < count
    ]
    return Migrated(
        what=copy.what,
        tables=len(rows),
        rows=sum(rows.values()),
        seconds=time.monotonic() - start,
        fewer=tuple(fewer),
    )


@contextmanager
def _copied(address: str, folder: Path, name: str) -> Iterator[DatabaseCopy]:
    """Copy a database, and delete the copy on exit.

    Raises:
        StageError: The database is of a kind that is not supported, or cannot be copied.
    """
    kind = address.partition(":")[0].partition("+")[0]
    if kind == "sqlite":
        target = folder / "copy.db"
        source = f"{Path(_file_of(address)).resolve().as_uri()}?mode=ro"
        with (
            closing(sqlite3.connect(source, uri=True)) as original,
            closing(sqlite3.connect(target)) as copied,
        ):
            original.backup(copied)
        yield DatabaseCopy(f"sqlite:///{target}", "a copy of the installation's SQLite database")
        target.unlink(missing_ok=True)
        return
    if kind not in ("postgresql", "postgres"):
        raise StageError(
            f"a database of {kind!r} is not copied",
            where="Airflow's metadata",
            hint="PostgreSQL and SQLite are; migrate a copy of another by hand",
        )
    with _copied_in_postgres(address, folder, name) as copy:
        yield copy


@contextmanager
def _copied_in_postgres(address: str, folder: Path, name: str) -> Iterator[DatabaseCopy]:
    """Copy a database on the same server: `pg_dump` reads a snapshot while Airflow runs."""
    # The name is specific to the rehearsal: leftovers of a killed one are dropped, and two
    # rehearsals do not interfere.
    database = f"nightbid_rehearsal_{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    parts = _postgres(address)
    drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database))
    with _connect(parts) as server:
        server.execute(drop)
        server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
        try:
            dump = folder / "metadata.dump"
            _program("pg_dump", ["--format=custom", "--no-owner", f"--file={dump}"], parts)
            _program(
                "pg_restore",
                ["--no-owner", "--exit-on-error", f"--dbname={database}", str(dump)],
                {**parts, "dbname": database},
            )
            dump.unlink()
            split = urlsplit(address)
            copy = split._replace(path=f"/{database}").geturl()
            yield DatabaseCopy(copy, "a copy of the installation's PostgreSQL database")
        finally:
            server.execute(drop)


def _program(name: str, arguments: list[str], parts: dict[str, str]) -> None:
    """Run a client of PostgreSQL, with the password in a variable, which other users cannot see."""
    path = shutil.which(name)
    if path is None:
        raise StageError(
            f"{name} is not installed", where="Airflow's metadata",
            hint="install PostgreSQL's client programs (Debian: postgresql-client)",
        )  # fmt: skip
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD",
             "dbname": "PGDATABASE", "sslmode": "PGSSLMODE"}  # fmt: skip
    variables = {names[key]: value for key, value in parts.items() if key in names}
    done = subprocess.run(  # noqa: S603 - our own arguments
        [path, *arguments], env={**os.environ, **variables}, capture_output=True, text=True
    )
    if done.returncode:
        why = _one_line(done.stderr) if done.returncode > 0 else how_it_ended(done.returncode)
        raise StageError(f"{name}: {why}", where="Airflow's metadata")


def _connect(parts: dict[str, str]) -> psycopg.Connection[Any]:
    return psycopg.connect(make_conninfo("", **parts, connect_timeout=WAIT), autocommit=True)


def _postgres(address: str) -> dict[str, str]:
    """Split an address of SQLAlchemy into its parts, with the names of libpq."""
    split = urlsplit(address)
    parts = {
        "host": split.hostname or "",
        "port": str(split.port or ""),
        "user": unquote(split.username or ""),
        "password": unquote(split.password or ""),
        "dbname": unquote(split.path.lstrip("/")),
        **dict(parse_qsl(split.query)),
    }
    return {key: value for key, value in parts.items() if value}


def _file_of(address: str) -> str:
    """Get the file of an address `sqlite:////whole/path` or `sqlite:///relative`."""
    return unquote(urlsplit(address).path[1:])


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:300]
