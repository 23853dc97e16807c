"""View of a run for pages and tables, read from its small records."""

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

RunState = Literal["done", "stopped", "failed", "running", "waiting"]


class StageView:
    """View of a stage: the attempt that counts, its output, and the cost of all attempts."""

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
        """Attempt that counts; None if the stage has not run on its current inputs."""
        self.live = live
        """Short text about the progress of the running attempt; empty if none is running."""

    @cached_property
    def manifest(self) -> Manifest | None:
        """Manifest of the output; None if there is none."""
        if self.record is None or not self.record.uri:
            return None
        return records.manifest(self._run.workspace, self.record.uri)

    @property
    def folder(self) -> UPath | None:
        """Folder of the output; None if there is none."""
        if self.record is None or not self.record.uri:
            return None
        return self._run.workspace.at(self.record.uri)

    @property
    def uri(self) -> str:
        """URI of the output, relative to the workspace."""
        return self.record.uri if self.record else ""

    @property
    def state(self) -> RunState:
        """State of the stage: `running` during an attempt, `waiting` before the first one."""
        if self.live:
            return "running"
        return self.record.state if self.record else "waiting"

    @property
    def verdict(self) -> Verdict | None:
        """Verdict of a gate; None for other stages."""
        return self.record.verdict if self.record else None

    @property
    def is_gate(self) -> bool:
        """Whether the stage is a gate."""
        return self.name.startswith("gate_")

    @property
    def summary(self) -> str:
        """One-line summary: progress, result, or why the stage failed."""
        if self.live:
            return self.live
        return (self.record.error or self.record.summary) if self.record else ""

    @property
    def metrics(self) -> dict[str, Any]:
        """Metrics of the manifest; empty before the stage has run."""
        return self.manifest.metrics if self.manifest else {}


class RunView:
    """View of a run with its stages, in the order of the night."""

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        self.head = run.head

    @cached_property
    def costs(self) -> list[LedgerEntry]:
        """Ledger entries of all costs of the run."""
        return records.costs(self.run)

    @cached_property
    def stages(self) -> list[StageView]:
        """All stages of the night, including those that have not run yet."""
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
        """Get a stage by its name."""
        matches = (stage for stage in self.stages if stage.name == name)
        return next(matches, StageView(self.run, name, [], None))

    @property
    def evaluation(self) -> dict[str, Any]:
        """Metrics of the stage `evaluate`; empty before it has run."""
        return self.stage("evaluate").metrics

    @property
    def waits_for_person(self) -> bool:
        """Whether all gates have passed and the promotion waits for a user's approval."""
        return (
            self.state == "running"
            and bool(self.head.spec.get("approval"))
            and self.stage("gate_cost").state == "done"
            and self.stage(APPROVE).record is None
        )

    @property
    def behind(self) -> str:
        """Why the window ends earlier than usual, if the night accepted a lag; else empty."""
        waited = self.stage(ARRIVAL)
        return waited.summary if waited.verdict == "warn" and not waited.live else ""

    @property
    def total_cost(self) -> Money:
        """Cost of all attempts at cloud prices."""
        return total(self.costs)

    @property
    def budget(self) -> Decimal | None:
        """Budget limit of the run, in USD; None: no limit."""
        value = dict(self.head.spec.get("budget") or {}).get("run_usd")  # type: ignore[call-overload]
        return None if value is None else Decimal(str(value))

    @property
    def seconds(self) -> float:
        """Total duration of all attempts, in seconds."""
        return sum(record.seconds for stage in self.stages for record in stage.attempts)

    @property
    def code_digest(self) -> str:
        """Digest of the source code of all stages that have run."""
        return self.code_digest_of([stage.name for stage in self.stages if stage.manifest])

    def code_digest_of(self, names: Iterable[str]) -> str:
        """Compute the digest of the source code of some stages that have run, in their order."""
        code = hashlib.sha256()
        for name in names:
            if manifest := self.stage(name).manifest:
                code.update(f"{name} {manifest.code_digest}".encode())
        return code.hexdigest()[:32]

    @property
    def state(self) -> RunState:
        """State of the run: `failed` or `stopped` if a stage is; `done` if the last stage is."""
        return self._state[0]

    @property
    def deciding(self) -> StageView | None:
        """Stage that ended the run; None if none did."""
        name = self._state[1]
        return self.stage(name) if name else None

    @property
    def _state(self) -> tuple[RunState, str]:
        return state_of(
            self.head, {stage.name: stage.record for stage in self.stages if stage.record}
        )
