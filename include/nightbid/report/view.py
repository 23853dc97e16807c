"""What pages and tables show of one run, read from its small records."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from nightbid.config.costs import STAGES
from nightbid.cost.ledger import Ledger, LedgerEntry, totals
from nightbid.cost.money import Money
from nightbid.manifest import Manifest, Verdict
from nightbid.runs import RunRecord, StageRecord

State = Literal["done", "stopped", "failed", "running", "waiting"]


@dataclass(frozen=True)
class StageView:
    """One stage of a run: its newest attempt, what it wrote, and what all attempts cost."""

    name: str
    record: StageRecord | None
    manifest: Manifest | None
    cost: Money | None
    attempts: int

    @property
    def state(self) -> State:
        """`waiting` until it has run."""
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
        """One line: what it found, or why it failed."""
        return (self.record.error or self.record.summary) if self.record else ""

    @property
    def metrics(self) -> dict[str, Any]:
        """The manifest's metrics; empty before it has run."""
        return self.manifest.metrics if self.manifest else {}


class RunView:
    """One run with its stages, in the order of the night."""

    def __init__(self, run: RunRecord, costs: list[LedgerEntry] | None = None) -> None:
        self.run = run
        self.head = run.head
        self._costs = costs

    @cached_property
    def costs(self) -> list[LedgerEntry]:
        """Everything the run has spent."""
        if self._costs is not None:
            return self._costs
        return Ledger(self.run.workspace).entries(
            pipeline=self.head.pipeline, run_id=self.head.run_id
        )

    @cached_property
    def stages(self) -> list[StageView]:
        """Every stage of a night, those that have not run yet among them."""
        records: dict[str, list[StageRecord]] = {}
        for record in self.run.records():
            records.setdefault(record.stage, []).append(record)
        spent = totals(self.costs, "stage")
        return [
            StageView(
                name=name,
                record=records[name][-1] if name in records else None,
                manifest=self._manifest(records[name][-1]) if name in records else None,
                cost=spent.get(name),
                attempts=len(records.get(name, ())),
            )
            for name in dict.fromkeys((*STAGES, *records))
        ]

    def stage(self, name: str) -> StageView:
        """One stage by name."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        return StageView(name, None, None, None, 0)

    @property
    def evaluation(self) -> dict[str, Any]:
        """Metrics of the evaluate stage; empty before it has run."""
        return self.stage("evaluate").metrics

    @property
    def total_cost(self) -> Money:
        """All attempts, at the price of the same usage in the cloud."""
        return Money.total(each.cost for each in self.stages if each.cost)

    @property
    def budget(self) -> Decimal | None:
        """Limit of the run, in USD."""
        value = dict(self.head.spec.get("budget") or {}).get("run_usd")  # type: ignore[call-overload]
        return None if value is None else Decimal(str(value))

    @property
    def seconds(self) -> float:
        """Time of all attempts, added up."""
        return sum(record.seconds for record in self.run.records())

    @property
    def state(self) -> State:
        """`failed` or `stopped` by its first stage that is; `done` when promotion is."""
        for stage in self.stages:
            if stage.state in ("failed", "stopped"):
                return stage.state
        return "done" if self.stage("promote").state == "done" else "running"

    @property
    def deciding(self) -> StageView | None:
        """The stage that ended the run, if one did."""
        return next((each for each in self.stages if each.state in ("failed", "stopped")), None)

    def _manifest(self, record: StageRecord) -> Manifest | None:
        if not record.uri:
            return None
        path = self.run.workspace.at(record.uri) / "manifest.json"
        try:
            # An output is never changed, so its manifest is read once.
            return _read_manifest(str(path))
        except FileNotFoundError:
            return None


@lru_cache(maxsize=4096)
def _read_manifest(path: str) -> Manifest:
    tree = json.loads(Path(path).read_text(encoding="utf-8"))
    tree["files"] = ()
    return Manifest.model_validate(tree)
