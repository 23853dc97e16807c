"""The ledger in PostgreSQL: an append-only table, for installations with several machines.

Each observation is a row, written once; a unique key rejects duplicates. The table itself refuses
updates, and allows deleting only rows that a newer observation supersedes (compaction).
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from pydantic import SecretStr

from nightbid.addresses import shown
from nightbid.cost.entries import LedgerEntry
from nightbid.errors import WorkspaceError

KEY = ("pipeline", "run_id", "stage", "attempt", "job", "service", "resource")
"""Columns of the key whose usage is counted only once."""
COLUMNS = (*KEY, "quantity", "cost_here", "cost_cloud", "currency", "started", "state")
LOCK = 7_261_180
"""Number of the advisory lock that is held while the table is created."""
CONNECT_SECONDS = 10
ANSWER_SECONDS = 60.0
"""Maximum duration of one use of the connection, in seconds."""
SCHEMA = Path(__file__).with_suffix(".sql")


class PostgresLedger:
    """Stores observations in the table `nightbid.ledger`, which is created on first use.

    Args:
        address: Address `postgresql://user:password@host/database`; messages never show it in full.

    Raises:
        WorkspaceError: The server does not answer, or refuses the connection.
    """

    def __init__(self, address: SecretStr) -> None:
        self._address = address

    def append(self, entries: Iterable[LedgerEntry]) -> None:
        """Add observations, all or none; skip those that exist already."""
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
        """Read the relevant observations: per key, the largest one and the most reliable state."""
        columns = {"pipeline": pipeline, "run_id": run_id, "stage": stage}
        filters = {name: value for name, value in columns.items() if value is not None}
        where = sql.SQL(" AND ").join(
            [sql.SQL("true"), *(sql.SQL("{} = {}").format(sql.Identifier(name),
                                                          sql.Placeholder(name))
                                for name in filters)]
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
            for row in self._rows(sql.SQL(" UNION ").join(best), filters)
        ]

    def compact(self) -> int:
        """Delete rows that newer observations supersede; return their number."""
        with self._connection() as connection:
            return connection.execute(
                "DELETE FROM nightbid.ledger WHERE id IN (SELECT id FROM nightbid.covered)"
            ).rowcount

    def marks(self, pipeline: str) -> dict[str, int]:
        """Map each run of a pipeline to a number that changes when an entry is added to the run."""
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
        where = shown(self._address.get_secret_value())
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
            # The library quotes parts of an address that it cannot parse, which may be secret.
            unread = isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None
            text = "the address cannot be read" if unread else " ".join(str(error).split())
            raise WorkspaceError(
                f"the cost ledger in PostgreSQL cannot be used: {text}",
                where=where,
                hint="check the server and NIGHTBID_LEDGER; nothing was counted twice",
            ) from (None if unread else error)


class _Shared:
    """The shared connection of this process; reopened after a restart of the server."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._open: tuple[str, psycopg.Connection[Any]] | None = None
        self.gave_up = False
        """Whether the last use took too long and was aborted."""

    def open(self, address: str) -> psycopg.Connection[Any]:
        if self._open and self._open[0] == address and _is_alive(self._open[1]):
            return self._open[1]
        self.forget()
        if self.gave_up:  # a new connection would hang too
            raise psycopg.OperationalError("no answer")
        connection = psycopg.connect(address, autocommit=True, connect_timeout=CONNECT_SECONDS)
        self._open = (address, connection)
        _prepare(connection)
        return connection

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Close the connection if the block takes too long, since the driver waits forever."""
        self.gave_up = False
        timer = threading.Timer(ANSWER_SECONDS, self._give_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        opened = self._open
        if opened is None:
            return  # the connection is being opened, for which the driver has its own timeout
        self.gave_up = True
        with suppress(OSError, psycopg.Error):
            duplicate = socket.socket(fileno=os.dup(opened[1].fileno()))
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
        # If two processes start together, the second one waits and finds the table.
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        if not _has_table(connection):
            connection.execute(SCHEMA.read_bytes())


def _has_table(connection: psycopg.Connection[Any]) -> bool:
    row = connection.execute("SELECT to_regclass('nightbid.ledger')").fetchone()
    return bool(row and row[0])


_SHARED = _Shared()


def _after_fork() -> None:
    # The parent keeps its connection; the library does not close connections of other processes.
    global _SHARED
    _SHARED = _Shared()


os.register_at_fork(after_in_child=_after_fork)
