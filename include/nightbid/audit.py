"""Audit list of decisions: promotions, rollbacks, approvals, overrides, pauses and erasures.

The list has no storage of its own: it is read from the champion's history, the run records and the
erasure records, which name the user, time and reason and each carry a checksum.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from itertools import chain

from pydantic import BaseModel, ConfigDict

from nightbid.counts import counted
from nightbid.forget import erasures
from nightbid.night import incremental
from nightbid.night.attempts import APPROVE
from nightbid.night.champion import ChampionPointer
from nightbid.night.pauses import PromotionPauses
from nightbid.night.record import RunRecord, runs_of
from nightbid.retention import names
from nightbid.storage.workspace import Workspace

NIGHT = "night"
"""Name in place of a user's for decisions that a night made by itself."""


class Decision(BaseModel):
    """A decision that changed what serves, or what may serve."""

    model_config = ConfigDict(frozen=True)

    at: dt.datetime
    pipeline: str = ""
    """Name of the pipeline; empty: the decision concerns all pipelines."""
    by: str
    """Name of the user, or `night`; empty if unknown."""
    what: str
    reason: str


def decisions(workspace: Workspace, pipeline: str) -> list[Decision]:
    """List the decisions on a pipeline, oldest first.

    Args:
        workspace: Workspace with the records.
        pipeline: Name of the pipeline.

    Raises:
        CorruptDataError: A record of the champion's history is damaged.
    """
    collected = [*_of_pipeline(workspace, pipeline), *_of_erasures(workspace)]
    return sorted(collected, key=lambda decision: decision.at)


def all_decisions(workspace: Workspace) -> list[Decision]:
    """List the decisions on all pipelines that have records, oldest first.

    Args:
        workspace: Workspace with the records; pipelines without a YAML are included.

    Raises:
        CorruptDataError: A record of a champion's history is damaged.
    """
    tops = [workspace.root / name for name in ("champion", "runs")]
    pipelines = sorted({name for top in tops for name in names(top)})
    collected = [decision for name in pipelines for decision in _of_pipeline(workspace, name)]
    return sorted([*collected, *_of_erasures(workspace)], key=lambda decision: decision.at)


def _of_pipeline(workspace: Workspace, pipeline: str) -> Iterator[Decision]:
    seen: set[tuple[str, ...]] = set()
    sources = [_of_champions(workspace, pipeline)]
    sources += [_of_run(run, seen) for run in runs_of(workspace, pipeline)]
    for decision in chain.from_iterable(sources):
        yield decision.model_copy(update={"pipeline": pipeline})


def _of_champions(workspace: Workspace, pipeline: str) -> Iterator[Decision]:
    for entry in ChampionPointer(workspace, pipeline).history():
        by = entry.by or (NIGHT if entry.change == "promote" else "")
        what = f"{entry.change} #{entry.number}: {entry.run_id or 'nothing'} serves"
        yield Decision(at=entry.since, by=by, what=what, reason=entry.reason)
    for change in PromotionPauses(workspace, pipeline).changes():
        what = f"{change.change} promotions"
        yield Decision(at=change.at, by=change.by, what=what, reason=change.reason)
    for decision in incremental.decisions(workspace, pipeline):
        what = f"{decision.change} the day {decision.day}"
        yield Decision(at=decision.at, by=decision.by, what=what, reason=decision.reason)


def _of_erasures(workspace: Workspace) -> Iterator[Decision]:
    for erasure in erasures(workspace):
        learned = f"; had learned: {', '.join(erasure.learned)}" if erasure.learned else ""
        what = f"forget {counted(erasure.users, 'user')}: "
        what += f"{counted(sum(erasure.outputs.values()), 'output')}{learned}"
        yield Decision(at=erasure.at, by=erasure.by, what=what, reason=erasure.reason)


def _of_run(run: RunRecord, seen: set[tuple[str, ...]]) -> Iterator[Decision]:
    """Yield the approvals of a run, and the overrides that appear in it for the first time."""
    for record in run.records():
        if record.stage == APPROVE:
            answer = "approve" if record.state == "done" else "keep back"
            yield Decision(
                at=record.started, by=record.by, what=f"{answer} {run.run_id}",
                reason=record.summary,
            )  # fmt: skip
    gates = run.head.spec.get("gates")
    overrides = gates.get("overrides") if isinstance(gates, dict) else None
    for override in overrides or ():
        key = tuple(str(override.get(name)) for name in ("gate", "check", "name", "until"))
        if key not in seen:
            seen.add(key)
            yield Decision(
                at=run.head.started, by=key[2],
                what=f"override {key[0]} {key[1]} until {key[3]}, from {run.run_id} on",
                reason=str(override.get("reason", "")),
            )  # fmt: skip
