"""The cost ledger: append-only files in the workspace, safe for any number of writers.

Every observation is a new small file, never changed. What a key (pipeline, run, stage, attempt,
job, service, resource) cost is the largest quantity observed: usage only grows, so late,
repeated, stale and out-of-order observations all fold into the same answer, and a crash or a
retry of the *recording* never counts anything twice. Compaction folds the files into one Parquet
file; a crash in the midst of it leaves duplicates, which fold away too.
"""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Literal

from pydantic import BaseModel, ConfigDict
from upath import UPath

from nightbid.cost.money import Money
from nightbid.cost.pricing import PriceBook, default_book, price_lines, quantities
from nightbid.errors import WorkspaceError
from nightbid.manifest import Usage
from nightbid.workspace import Workspace, remove, write_atomically, write_once

MACHINE = "machine"
"""Service name of a machine of yours."""
Scope = Literal["run", "stage", "pipeline", "day", "month", "service"]
_SURENESS = {"running": 0, "killed": 1}
"""Observers of an attempt may differ on how it ended; it knows best itself."""
Key = tuple[str, str, str, int, str, str, str]


class LedgerEntry(BaseModel):
    """What one attempt consumed of one resource, and what that costs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pipeline: str
    run_id: str
    stage: str
    attempt: int
    service: str
    resource: str
    """What a unit is: `vcpu_hour`, `memory_gb_hour`, …"""
    job: str = ""
    """Id of a cloud job, so that two jobs of one attempt are both counted."""
    quantity: Decimal
    cost_here: Decimal
    """Paid where it ran: the local rate, or the cloud price for a cloud job."""
    cost_cloud: Decimal
    """The same usage at the cloud's price."""
    currency: str
    started: datetime
    state: str = "running"
    """`running` while it is observed; then how the attempt ended: `done`, `failed`, `killed` (its
    samples just ceased), or a cloud job's own word."""

    @property
    def key(self) -> Key:
        """What may be counted only once."""
        return (
            self.pipeline, self.run_id, self.stage, self.attempt,
            self.job, self.service, self.resource,
        )  # fmt: skip

    @property
    def attempt_key(self) -> tuple[str, str, str, int]:
        """The attempt that it belongs to."""
        return self.pipeline, self.run_id, self.stage, self.attempt

    @property
    def day(self) -> date:
        """Day (UTC) that the cost belongs to."""
        return self.started.astimezone(UTC).date()


class Ledger:
    """Reads and appends the costs of all pipelines of a workspace."""

    def __init__(self, workspace: Workspace) -> None:
        self._root: UPath = workspace.root / "ledger"

    def append(self, entries: Iterable[LedgerEntry]) -> None:
        """Add observations; one file per attempt that they belong to."""
        batches: dict[tuple[str, str, str, int], list[LedgerEntry]] = {}
        for entry in entries:
            batches.setdefault(entry.attempt_key, []).append(entry)
        for (pipeline, run_id, stage, number), batch in batches.items():
            name = f"{stage}.{number}.{uuid.uuid4().hex}.json"
            text = json.dumps([entry.model_dump(mode="json") for entry in batch])
            write_once(self._root / "entries" / pipeline / run_id / name, text)

    def entries(
        self,
        *,
        pipeline: str | None = None,
        run_id: str | None = None,
        stage: str | None = None,
    ) -> list[LedgerEntry]:
        """Everything that was spent, each key once, oldest first."""
        found = self._fold(self._read(pipeline, run_id))
        return [
            entry
            for entry in found
            if (pipeline is None or entry.pipeline == pipeline)
            and (run_id is None or entry.run_id == run_id)
            and (stage is None or entry.stage == stage)
        ]

    def compact(self) -> int:
        """Fold every file into one Parquet file; returns how many files that replaced."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        old = [*self._json_files(None, None), *self._compacted()]
        if len(old) < 2:
            return 0
        folded = self._fold(self._load(old))
        rows = [entry.model_dump(mode="json") for entry in folded]
        stream = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), stream)
        path = self._root / "compacted" / f"{uuid.uuid4().hex}.parquet"
        write_atomically(path, stream.getvalue())
        for each in old:
            remove(each)
        return len(old)

    def _read(self, pipeline: str | None, run_id: str | None) -> list[LedgerEntry]:
        for _ in range(10):
            try:
                # Small files first: what a compaction moves meanwhile is then in the Parquet.
                loose = self._load(self._json_files(pipeline, run_id), vanishing=True)
                return loose + self._load(self._compacted())
            except FileNotFoundError:
                continue
        raise WorkspaceError(
            "the ledger is being compacted over and over",
            where=str(self._root),
            hint="stop the processes that run `nightbid cost compact`",
        )

    def _json_files(self, pipeline: str | None, run_id: str | None) -> list[UPath]:
        folders = [self._root / "entries"]
        for wanted in (pipeline, run_id):
            folders = [
                child
                for folder in folders
                if folder.exists()
                for child in ([folder / wanted] if wanted else folder.iterdir())
            ]
        return [
            path
            for folder in folders
            if folder.exists()
            for path in folder.iterdir()
            if path.name.endswith(".json") and not path.name.startswith(".")
        ]

    def _compacted(self) -> list[UPath]:
        folder = self._root / "compacted"
        if not folder.exists():
            return []
        return [
            path
            for path in folder.iterdir()
            if path.name.endswith(".parquet") and not path.name.startswith(".")
        ]

    def _load(self, paths: Iterable[UPath], *, vanishing: bool = False) -> list[LedgerEntry]:
        found: list[LedgerEntry] = []
        for path in paths:
            try:
                if path.name.endswith(".json"):
                    rows = json.loads(path.read_text())
                else:
                    import pyarrow.parquet as pq

                    with path.open("rb") as stream:
                        rows = pq.read_table(stream).to_pylist()
            except FileNotFoundError:
                if vanishing:
                    continue
                raise
            found.extend(LedgerEntry.model_validate(row) for row in rows)
        return found

    @staticmethod
    def _fold(entries: Iterable[LedgerEntry]) -> list[LedgerEntry]:
        newest: dict[Key, LedgerEntry] = {}
        for entry in entries:
            other = newest.get(entry.key)
            if other is None:
                newest[entry.key] = entry
                continue
            larger = max(entry, other, key=lambda each: each.quantity)
            surest = max(entry, other, key=lambda each: _SURENESS.get(each.state, 2))
            newest[entry.key] = larger.model_copy(update={"state": surest.state})
        # A stage's own estimate of its cloud work gives way to what its jobs turn out to use.
        metered = {entry.attempt_key for entry in newest.values() if entry.job}
        kept = [
            entry
            for entry in newest.values()
            if entry.job or entry.service == MACHINE or entry.attempt_key not in metered
        ]
        return sorted(kept, key=lambda entry: (entry.started, entry.key))


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
