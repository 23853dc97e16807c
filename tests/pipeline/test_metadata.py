"""A rehearsal migrates a copy of Airflow's metadata and only reads the original."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import date
from pathlib import Path

import psycopg
import pytest
from nightbid.config.settings import Settings
from nightbid.rehearse.environments import Environment
from nightbid.rehearse.locks import Lock
from nightbid.rehearse.metadata import Migrated, address_of, migrate_copy
from nightbid.rehearse.plan import RehearsalPlan
from nightbid.rehearse.sides import Sides
from preloaded import COMMANDS, OF_AIRFLOW

CONNECTION = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
VARIABLE = "INSERT INTO variable (key, val, is_encrypted) VALUES ('k', 'v', false)"


@pytest.fixture(scope="module", autouse=True)
def preloaded_airflow() -> None:
    """Import the libraries of Airflow once for all commands of this file."""
    assert COMMANDS.start("--version", imports=OF_AIRFLOW).communicate()[0]


@pytest.fixture
def rehearse(tmp_path: Path) -> Callable[[str], Migrated]:
    """Migrate a copy of a database, with the current environment on both sides."""
    # A Python that has imported the libraries; see preloaded.py.
    COMMANDS.shim(tmp_path / "python", "python")
    running = Environment(tmp_path / "python", Lock({}), "running")
    plan = RehearsalPlan(
        name="r1", pipeline="small", date=date(2026, 1, 6), frozen="f", seeds=2, first_seed=1,
        margin=0.001, present={}, candidate={},
    )  # fmt: skip
    settings = Settings(workspace=str(tmp_path / "workspace"), cache=tmp_path / "cache")
    folder = tmp_path / "rehearsal"
    folder.mkdir()
    sides = Sides(plan, folder, settings)
    sides.keep_source()
    return lambda address: migrate_copy(sides, folder / "airflow", address, running, running)


def installed(address: str, home: Path) -> None:
    """Make the metadata database of an installation."""
    environment = {**os.environ, "AIRFLOW_HOME": str(home), CONNECTION: address}
    done = COMMANDS.run("db", "migrate", module="airflow", env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_copy_of_sqlite_is_migrated_and_the_original_is_unchanged(
    rehearse: Callable[[str], Migrated], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (CONNECTION, "AIRFLOW_HOME"):  # other tests have another Airflow
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "airflow" / "airflow.db"
    path.parent.mkdir()
    installed(f"sqlite:///{path}", path.parent)
    with closing(sqlite3.connect(path)) as base:
        base.execute(VARIABLE)
        base.commit()
    before = path.read_bytes()
    # The rehearsal finds it next to the workspace, where the embedded Airflow is.
    address = address_of(Settings(workspace=str(tmp_path / "workspace")))
    assert address == f"sqlite:///{path}"
    done = rehearse(address)
    assert not done.error
    assert not done.not_copied
    assert "copy of the installation's SQLite" in done.what
    with closing(sqlite3.connect(path)) as base:
        tables = base.execute("SELECT name FROM sqlite_master WHERE type='table'")
        names = [row[0] for row in tables]
        rows = sum(base.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names)
    # The migration adds an entry to the log.
    assert (done.tables, done.fewer) == (len(names), ())
    assert done.rows >= rows
    assert path.read_bytes() == before


@pytest.mark.slow
def test_a_copy_in_postgresql_is_migrated_and_dropped(
    rehearse: Callable[[str], Migrated],
    database: str,
    password: str,
    tmp_path: Path,
) -> None:
    address = database.replace("postgresql:", "postgresql+psycopg2:")
    with psycopg.connect(database, autocommit=True) as server:
        # The test with SQLite has the tables of Airflow; here, the first migration makes them.
        server.execute("CREATE TABLE own (key text)")
        server.execute("INSERT INTO own VALUES ('a'), ('b')")
        # A running Airflow is connected during the copy.
        done = rehearse(address)
        assert not done.error, (tmp_path / "rehearsal" / "airflow" / "log").read_text()
        assert not done.not_copied
        assert "copy of the installation's PostgreSQL" in done.what
        assert done.rows >= 2
        assert done.fewer == ()
        rows = server.execute("SELECT datname FROM pg_database").fetchall()
        assert not [name for (name,) in rows if name.startswith("nightbid_rehearsal")]
    printed = [path for path in (tmp_path / "rehearsal").rglob("*") if path.is_file()]
    assert not [path for path in printed if password.encode() in path.read_bytes()]


@pytest.mark.slow
def test_a_failed_metadata_migration_is_an_error(
    rehearse: Callable[[str], Migrated], tmp_path: Path
) -> None:
    path = tmp_path / "airflow.db"
    with closing(sqlite3.connect(path)) as base:
        base.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        base.execute("INSERT INTO alembic_version VALUES ('of_a_newer_one')")
        base.commit()
    done = rehearse(f"sqlite:///{path}")
    assert "`airflow db migrate` of the present version ended with code" in done.error


@pytest.mark.slow
def test_unreachable_metadata_is_reported_and_a_new_database_is_used(
    rehearse: Callable[[str], Migrated],
) -> None:
    done = rehearse("postgresql://u:s3cr3t@127.0.0.1:1/airflow")
    assert "refused" in done.not_copied
    assert "s3cr3t" not in done.model_dump_json()
    assert (done.what, done.error) == ("a new database", "")
