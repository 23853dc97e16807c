"""The cost ledger: append-only, counts everything once, however often it is written.

Observations are kept in files of the workspace, or in PostgreSQL where the setting `ledger` says
so; see `ledger_files` and `ledger_postgres`. What they fold into is the same: see `entries`.
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
from nightbid.cost.pricing import PriceBook, default_book, price_lines, quantities
from nightbid.night.manifest import Usage
from nightbid.storage.workspace import Workspace

Scope = Literal["run", "stage", "pipeline", "day", "month", "service"]


class Store(Protocol):
    """Where observations are kept."""

    def append(self, entries: Iterable[LedgerEntry]) -> None:
        """Add observations; adding one again changes nothing."""

    def read(
        self, pipeline: str | None = None, run_id: str | None = None, stage: str | None = None
    ) -> list[LedgerEntry]:
        """Observations, at least those that are asked for, in no order."""

    def compact(self) -> int:
        """Let go of what newer observations cover; returns how many files or rows."""


def database() -> SecretStr | None:
    """Address of the PostgreSQL database that keeps this installation's ledger, if one does.

    Raises:
        ConfigError: the settings are wrong.
    """
    return _database(os.environ.get("NIGHTBID_LEDGER"), os.environ.get(FILE))


@cache
def _database(variable: str | None, file: str | None) -> SecretStr | None:
    # The settings are read once for each of the places that they come from: pages ask often.
    return Settings().ledger


def open_store(workspace: Workspace, *, lenient: bool = False) -> Store:
    """The store of this installation: PostgreSQL if the settings name one, else files.

    Args:
        workspace: Where the files lie.
        lenient: Leave damaged files out with a warning.

    Raises:
        ConfigError: the settings are wrong.
    """
    address = database()
    if address is None:
        return FileLedger(workspace, lenient=lenient)
    # Its driver is loaded only where it is used.
    from nightbid.cost.ledger_postgres import PostgresLedger

    return PostgresLedger(address)


class Ledger:
    """Reads and appends the costs of all pipelines of a workspace.

    Args:
        workspace: Whose.
        lenient: Leave a damaged file out with a warning: for nights, which go on. What tells a
            person an amount fails instead.

    Raises:
        WorkspaceError: the store cannot be reached.
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
        """Everything that was spent, each key once, oldest first."""
        return [
            entry
            for entry in fold(self._store.read(pipeline, run_id, stage))
            if (pipeline is None or entry.pipeline == pipeline)
            and (run_id is None or entry.run_id == run_id)
            and (stage is None or entry.stage == stage)
        ]

    def compact(self) -> int:
        """Let go of what newer observations cover; returns how many files or rows."""
        return self._store.compact()


def total(entries: Iterable[LedgerEntry], *, here: bool = False) -> Money:
    """Sum of costs, in the cloud or as paid here.

    Raises:
        PriceError: two currencies meet.
    """
    return Money.total(
        Money(entry.cost_here if here else entry.cost_cloud, entry.currency) for entry in entries
    )


def totals(entries: Iterable[LedgerEntry], by: Scope, *, here: bool = False) -> dict[str, Money]:
    """Sum of costs per run, stage, pipeline, day (YYYY-MM-DD), month (YYYY-MM) or service."""
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
    """Price quantities (resource → units), at the prices of the day they began.

    A cloud job that was bought in a way of its own (`option`: `flexrs`, `spot`) is priced so.

    Raises:
        PriceError: a price is missing or expired.
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
    """Enter what an attempt at a stage consumed. Entering it again changes nothing.

    Raises:
        PriceError: a price is missing or expired.
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
