"""The cost ledger: append-only; counts all usage once, however often it is recorded.

Observations are stored in files of the workspace, or in PostgreSQL with the setting `ledger`; see
`ledger_files` and `ledger_postgres`. Both merge observations in the same way, see `entries`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import Literal, Protocol

from pydantic import SecretStr

from nightbid.config.settings import FILE, Settings
from nightbid.cost.entries import MACHINE, LedgerEntry, fold
from nightbid.cost.ledger_files import FileLedger
from nightbid.cost.money import Money
from nightbid.cost.price_book import PriceBook, default_book
from nightbid.cost.pricing import price_lines, quantities
from nightbid.night.manifest import Usage
from nightbid.storage.workspace import Workspace

Scope = Literal["run", "stage", "pipeline", "day", "month", "service"]


class LedgerStore(Protocol):
    """Storage of observations."""

    def append(self, entries: Iterable[LedgerEntry]) -> None:
        """Add observations; adding one again changes nothing."""

    def read(
        self, pipeline: str | None = None, run_id: str | None = None, stage: str | None = None
    ) -> list[LedgerEntry]:
        """Read at least the requested observations, in no particular order."""

    def compact(self) -> int:
        """Remove what newer observations supersede; return the number of files or rows."""


def database() -> SecretStr | None:
    """Get the address of the PostgreSQL database with this installation's ledger; None for files.

    Raises:
        ConfigError: The settings are wrong.
    """
    return _database(os.environ.get("NIGHTBID_LEDGER"), os.environ.get(FILE))


@cache
def _database(variable: str | None, file: str | None) -> SecretStr | None:
    # Cached by the sources of the settings, because pages call this often.
    return Settings().ledger


def open_store(workspace: Workspace, *, lenient: bool = False) -> LedgerStore:
    """Open the store of this installation: PostgreSQL if the settings name one, else files.

    Args:
        workspace: Workspace with the files.
        lenient: Whether to skip damaged files with a warning.

    Raises:
        ConfigError: The settings are wrong.
    """
    address = database()
    if address is None:
        return FileLedger(workspace, lenient=lenient)
    # Import the driver of PostgreSQL only if it is used.
    from nightbid.cost.ledger_postgres import PostgresLedger

    return PostgresLedger(address)


class Ledger:
    """Reads and appends the costs of all pipelines of a workspace.

    Args:
        workspace: Workspace of the pipelines.
        lenient: Whether to skip a damaged file with a warning, so that nights continue; callers
            that show amounts to users must fail instead.

    Raises:
        WorkspaceError: The store cannot be reached.
    """

    def __init__(self, workspace: Workspace, *, lenient: bool = False) -> None:
        self._store = open_store(workspace, lenient=lenient)

    def append(self, entries: Iterable[LedgerEntry]) -> None:
        """Add observations."""
        self._store.append(entries)

    def entries(
        self,
        *,
        pipeline: str | None = None,
        run_id: str | None = None,
        stage: str | None = None,
    ) -> list[LedgerEntry]:
        """List the merged entries: each key once, oldest first."""
        return [
            entry
            for entry in fold(self._store.read(pipeline, run_id, stage))
            if (pipeline is None or entry.pipeline == pipeline)
            and (run_id is None or entry.run_id == run_id)
            and (stage is None or entry.stage == stage)
        ]

    def compact(self) -> int:
        """Remove what newer observations supersede; return the number of files or rows."""
        return self._store.compact()


def total(entries: Iterable[LedgerEntry], *, here: bool = False) -> Money:
    """Sum costs, at cloud prices or, with `here`, as paid here.

    Raises:
        PriceError: The entries have different currencies.
    """
    return Money.total(
        Money(entry.cost_here if here else entry.cost_cloud, entry.currency) for entry in entries
    )


def totals(entries: Iterable[LedgerEntry], by: Scope, *, here: bool = False) -> dict[str, Money]:
    """Sum costs per run, stage, pipeline, day (YYYY-MM-DD), month (YYYY-MM) or service."""
    groups: dict[str, list[LedgerEntry]] = {}
    for entry in entries:
        name = {
            "run": entry.run_id,
            "stage": entry.stage,
            "pipeline": entry.pipeline,
            "day": entry.day.isoformat(),
            "month": f"{entry.day:%Y-%m}",
            "service": entry.service,
        }[by]
        groups.setdefault(name, []).append(entry)
    return {name: total(group, here=here) for name, group in groups.items()}


def price_entries(
    amounts: Mapping[str, Decimal],
    *,
    pipeline: str,
    run_id: str,
    stage: str,
    attempt: int,
    started: datetime,
    state: str = "running",
    service: str = MACHINE,
    job: str = "",
    option: str = "",
    book: PriceBook | None = None,
) -> list[LedgerEntry]:
    """Price quantities (resource → units), at the prices of the day on which the work started.

    `option` is the purchase option of a cloud job with its own price: `flexrs` or `spot`.

    Raises:
        PriceError: A price is missing or expired.
    """
    prices = book or default_book()
    day = started.astimezone(UTC).date()
    local = service == MACHINE
    cloud = price_lines(
        amounts, prices, at=day, where="cloud", service=None if local else service, option=option
    )
    here = price_lines(amounts, prices, at=day, where="local") if local else cloud
    return [
        LedgerEntry(
            pipeline=pipeline,
            run_id=run_id,
            stage=stage,
            attempt=attempt,
            service=service,
            resource=resource,
            job=job,
            quantity=quantity,
            cost_here=here[resource].amount,
            cost_cloud=cloud[resource].amount,
            currency=cloud[resource].currency,
            started=started,
            state=state,
        )
        for resource, quantity in amounts.items()
    ]


def record_stage_usage(
    workspace: Workspace,
    *,
    pipeline: str,
    run_id: str,
    stage: str,
    attempt: int,
    usage: Usage,
    started: datetime,
    state: str,
    service: str = MACHINE,
    book: PriceBook | None = None,
) -> list[LedgerEntry]:
    """Record the usage of an attempt at a stage. Recording it again changes nothing.

    Raises:
        PriceError: A price is missing or expired.
    """
    entries = price_entries(
        quantities(usage),
        pipeline=pipeline,
        run_id=run_id,
        stage=stage,
        attempt=attempt,
        started=started,
        state=state,
        service=service,
        book=book,
    )
    Ledger(workspace).append(entries)
    return entries
