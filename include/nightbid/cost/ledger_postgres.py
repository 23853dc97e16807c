"""The ledger in PostgreSQL: one table that only grows, for installations with several machines.

An observation is a row, written once: the same one again meets the unique key and is left out.
The table itself refuses updates, and deletes only what a newer observation covers (compaction).
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from pydantic import SecretStr

from nightbid.cost.entries import LedgerEntry
from nightbid.errors import WorkspaceError

KEY = ("pipeline", "run_id", "stage", "attempt", "job", "service", "resource")
"""What may be counted only once."""
COLUMNS = (*KEY, "quantity", "cost_here", "cost_cloud", "currency", "started", "state")
LOCK = 7_261_180
"""Of this database, while the table is made."""
CONNECT_SECONDS = 10
ANSWER_SECONDS = 60.0
"""For one use of it, whatever it asks."""
SCHEMA = Path(__file__).with_suffix(".sql")


class PostgresLedger:
    """Keeps observations in the table `nightbid.ledger`, which is made on first use.

    Args:
        address: `postgresql://user:password@host/database`; never shown whole.

    Raises:
        WorkspaceError: the server does not answer, or refuses.
    """

    def __init__(self, address: SecretStr) -> None:
        self._address = address

    def append(self, entries: Iterable[LedgerEntry]) -> None:
        """Add observations, all or none; one that is there already is left out."""
        rows = [tuple(getattr(entry, name) for name in COLUMNS) for entry in entries]
        statement = sql.SQL(
            "INSERT INTO nightbid.ledger ({}) VALUES ({}) ON CONFLICT DO NOTHING"
        ).format(
            sql.SQL(", ").join(map(sql.Identifier, COLUMNS)),
            sql.SQL(", ").join([sql.Placeholder()] * len(COLUMNS)),
        )
        with self._connection() as connection, connection.transaction():
            connection.cursor().executemany(statement, rows)

    def read(
        self, pipeline: str | None = None, run_id: str | None = None, stage: str | None = None
    ) -> list[LedgerEntry]:
        """Observations that matter: of each key the largest, and the surest of how it ended."""
        wanted = {"pipeline": pipeline, "run_id": run_id, "stage": stage}
        given = {name: value for name, value in wanted.items() if value is not None}
        where = sql.SQL(" AND ").join(
            [sql.SQL("true"), *(sql.SQL("{} = {}").format(sql.Identifier(name),
                                                          sql.Placeholder(name))
                                for name in given)]
        )  # fmt: skip
        key = sql.SQL(", ").join(map(sql.Identifier, KEY))
        best = [
            sql.SQL(
                "(SELECT DISTINCT ON ({key}) {columns} FROM nightbid.ledger WHERE {where}"
                " ORDER BY {key}, {order} DESC, id)"
            ).format(
                key=key,
                columns=sql.SQL(", ").join(map(sql.Identifier, COLUMNS)),
                where=where,
                order=order,
            )
            for order in (sql.SQL("quantity"), sql.SQL("nightbid.sureness(state)"))
        ]
        return [
            LedgerEntry.model_validate(row)
            for row in self._rows(sql.SQL(" UNION ").join(best), given)
        ]

    def compact(self) -> int:
        """Delete what newer observations cover; returns how many rows."""
        with self._connection() as connection:
            return connection.execute(
                "DELETE FROM nightbid.ledger WHERE id IN (SELECT id FROM nightbid.covered)"
            ).rowcount

    def marks(self, pipeline: str) -> dict[str, int]:
        """A number per run of a pipeline that changes when something is added to it."""
        rows = self._rows(
            "SELECT run_id, max(id) AS mark FROM nightbid.ledger WHERE pipeline = %(pipeline)s"
            " GROUP BY run_id",
            {"pipeline": pipeline},
        )
        return {row["run_id"]: row["mark"] for row in rows}

    def _rows(self, statement: Any, values: dict[str, str]) -> Sequence[dict[str, Any]]:
        with self._connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(statement, values).fetchall()

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[Any]]:
        where = shown_address(self._address)
        try:
            with _SHARED.lock, _SHARED.watched():
                yield _SHARED.open(self._address.get_secret_value())
        except psycopg.Error as error:
            _SHARED.forget()
            if _SHARED.gave_up:
                raise WorkspaceError(
                    f"the cost ledger in PostgreSQL has not answered within {ANSWER_SECONDS:g} s",
                    where=where,
                    hint="check the server and NIGHTBID_LEDGER; nothing was counted twice",
                ) from error
            # Of a text that could not be parsed the library quotes pieces: they may be secret.
            unread = isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None
            text = "the address cannot be read" if unread else " ".join(str(error).split())
            raise WorkspaceError(
                f"the cost ledger in PostgreSQL cannot be used: {text}",
                where=where,
                hint="check the server and NIGHTBID_LEDGER; nothing was counted twice",
            ) from (None if unread else error)


class _Shared:
    """One connection of this process; a server that was restarted gets a new one."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._open: tuple[str, psycopg.Connection[Any]] | None = None
        self.gave_up = False
        """Whether the newest use took too long."""

    def open(self, address: str) -> psycopg.Connection[Any]:
        if self._open and self._open[0] == address and _is_alive(self._open[1]):
            return self._open[1]
        self.forget()
        connection = psycopg.connect(address, autocommit=True, connect_timeout=CONNECT_SECONDS)
        self._open = (address, connection)
        _prepare(connection)
        return connection

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Cut the connection if the block takes too long: the driver itself waits for ever."""
        self.gave_up = False
        timer = threading.Timer(ANSWER_SECONDS, self._give_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        found = self._open
        if found is None:
            return  # it is being opened, for which the driver has a limit of its own
        self.gave_up = True
        with suppress(OSError, psycopg.Error):
            duplicate = socket.socket(fileno=os.dup(found[1].fileno()))
            duplicate.shutdown(socket.SHUT_RDWR)
            duplicate.close()

    def forget(self) -> None:
        if self._open:
            self._open[1].close()
        self._open = None


def _is_alive(connection: psycopg.Connection[Any]) -> bool:
    try:
        connection.execute("SELECT 1")
    except psycopg.Error:
        return False
    return True


def _prepare(connection: psycopg.Connection[Any]) -> None:
    if _has_table(connection):
        return
    with connection.transaction():
        # Two processes that start together: the second waits, and finds it made.
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        if not _has_table(connection):
            connection.execute(SCHEMA.read_bytes())


def _has_table(connection: psycopg.Connection[Any]) -> bool:
    found = connection.execute("SELECT to_regclass('nightbid.ledger')").fetchone()
    return bool(found and found[0])


def shown_address(address: SecretStr) -> str:
    """Where the ledger is, without user and password."""
    parts = urlsplit(address.get_secret_value())
    return f"postgresql://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"


_SHARED = _Shared()


def _after_fork() -> None:
    # The parent's connection stays the parent's; the library closes nothing of another process.
    global _SHARED
    _SHARED = _Shared()


os.register_at_fork(after_in_child=_after_fork)
