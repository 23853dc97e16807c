"""What pages and tables show of one run, read from its small records."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from decimal import Decimal
from functools import cached_property
from typing import Any, Literal

from upath import UPath

from nightbid.cost.entries import LedgerEntry
from nightbid.cost.ledger import total, totals
from nightbid.cost.money import Money
from nightbid.night.attempts import APPROVE, ARRIVAL, REQUEST, StageRecord, current
from nightbid.night.manifest import Manifest, Verdict
from nightbid.night.record import RunRecord, state_of
from nightbid.night.stages import STAGES
from nightbid.report import records

State = Literal["done", "stopped", "failed", "running", "waiting"]


class StageView:
    """One stage of a run: the attempt that counts, its output, and what all attempts cost."""

    def __init__(
        self,
        run: RunRecord,
        name: str,
        attempts: list[StageRecord],
        cost: Money | None,
        live: str = "",
        record: StageRecord | None = None,
    ) -> None:
        self._run = run
        self.name = name
        self.attempts = attempts
        self.cost = cost
        self.record = record
        """The attempt that counts; None also while the stage has not run on its inputs of now."""
        self.live = live
        """How far the attempt is that runs now, in a few words; empty if none does."""

    @cached_property
    def manifest(self) -> Manifest | None:
        """What it wrote, if it got that far."""
        if self.record is None or not self.record.uri:
            return None
        return records.manifest(self._run.workspace, self.record.uri)

    @property
    def folder(self) -> UPath | None:
        """Its output."""
        if self.record is None or not self.record.uri:
            return None
        return self._run.workspace.at(self.record.uri)

    @property
    def uri(self) -> str:
        """Address of its output, relative to the workspace."""
        return self.record.uri if self.record else ""

    @property
    def state(self) -> State:
        """`running` while an attempt runs, `waiting` until one has."""
        if self.live:
            return "running"
        return self.record.state if self.record else "waiting"

    @property
    def verdict(self) -> Verdict | None:
        """Of a gate."""
        return self.record.verdict if self.record else None

    @property
    def is_gate(self) -> bool:
        """Whether it judges rather than computes."""
        return self.name.startswith("gate_")

    @property
    def summary(self) -> str:
        """One line: how far it is, what it found, or why it failed."""
        if self.live:
            return self.live
        return (self.record.error or self.record.summary) if self.record else ""

    @property
    def metrics(self) -> dict[str, Any]:
        """The manifest's metrics; empty before it has run."""
        return self.manifest.metrics if self.manifest else {}


class RunView:
    """One run with its stages, in the order of the night."""

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        self.head = run.head

    @cached_property
    def costs(self) -> list[LedgerEntry]:
        """Everything the run has spent."""
        return records.costs(self.run)

    @cached_property
    def stages(self) -> list[StageView]:
        """Every stage of a night, those that have not run yet among them."""
        attempts: dict[str, list[StageRecord]] = {}
        recorded = records.stage_records(self.run)
        for record in recorded:
            attempts.setdefault(record.stage, []).append(record)
        spent = totals(self.costs, "stage")
        newest = current(recorded)
        going = state_of(self.head, newest)[0] == "running"
        live = records.live_stages(self.run) if going else {}
        names = [name for name in STAGES if name != "promote"]
        if waiting := records.waiting_words(self.run) if going and not live else "":
            live = {**live, ARRIVAL: waiting}
        if ARRIVAL in newest or waiting:
            names.insert(0, ARRIVAL)
        if REQUEST in newest and newest[REQUEST].state != "done":
            names.insert(0, REQUEST)
        if APPROVE in newest:
            names.append(APPROVE)
        names += ["promote", *(name for name in attempts if name != REQUEST)]
        return [
            StageView(
                self.run,
                name,
                attempts.get(name, []),
                spent.get(name),
                live.get(name, ""),
                newest.get(name),
            )
            for name in dict.fromkeys(names)
        ]

    def stage(self, name: str) -> StageView:
        """One stage by name."""
        found = (stage for stage in self.stages if stage.name == name)
        return next(found, StageView(self.run, name, [], None))

    @property
    def evaluation(self) -> dict[str, Any]:
        """Metrics of the evaluate stage; empty before it has run."""
        return self.stage("evaluate").metrics

    @property
    def waits_for_person(self) -> bool:
        """Whether every gate has passed and a person has to decide on the promotion."""
        return (
            self.state == "running"
            and bool(self.head.spec.get("approval"))
            and self.stage("gate_cost").state == "done"
            and self.stage(APPROVE).record is None
        )

    @property
    def behind(self) -> str:
        """Why the window ends earlier than usual, where a lag of the logs was accepted."""
        waited = self.stage(ARRIVAL)
        return waited.summary if waited.verdict == "warn" and not waited.live else ""

    @property
    def total_cost(self) -> Money:
        """All attempts, at the price of the same usage in the cloud."""
        return total(self.costs)

    @property
    def budget(self) -> Decimal | None:
        """Limit of the run, in USD."""
        value = dict(self.head.spec.get("budget") or {}).get("run_usd")  # type: ignore[call-overload]
        return None if value is None else Decimal(str(value))

    @property
    def seconds(self) -> float:
        """Time of all attempts, added up."""
        return sum(record.seconds for stage in self.stages for record in stage.attempts)

    @property
    def code_digest(self) -> str:
        """Of the source of every stage that has run: the same digest is the same code."""
        return self.code_digest_of([stage.name for stage in self.stages if stage.manifest])

    def code_digest_of(self, names: Iterable[str]) -> str:
        """Of the source of certain stages, which have run, in the order of the night."""
        code = hashlib.sha256()
        for name in names:
            if manifest := self.stage(name).manifest:
                code.update(f"{name} {manifest.code_digest}".encode())
        return code.hexdigest()[:32]

    @property
    def state(self) -> State:
        """`failed` or `stopped` by its first stage that is; `done` when its last one is."""
        return self._state[0]

    @property
    def deciding(self) -> StageView | None:
        """The stage that ended the run, if one did."""
        name = self._state[1]
        return self.stage(name) if name else None

    @property
    def _state(self) -> tuple[State, str]:
        return state_of(self.head, {each.name: each.record for each in self.stages if each.record})
