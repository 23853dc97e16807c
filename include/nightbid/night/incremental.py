"""Incremental nights: which earlier weights a night continues from, and which days are undone.

With `train.mode: incremental` a night's model starts from the weights and moments of the night
before and learns only the days since. The chain of such nights is in the manifests of the stages
`train` and `train_baseline`, as metrics `incremental`; a day that a user has undone is recorded
with the champion's history, one small file per decision.
"""

from __future__ import annotations

import datetime as dt
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from nightbid.config.base import Block
from nightbid.config.columns import Columns
from nightbid.config.pipeline import PipelineSpec
from nightbid.counts import counted
from nightbid.errors import CorruptDataError, WorkspaceError
from nightbid.night.champion import ChampionPointer
from nightbid.night.manifest import Manifest
from nightbid.night.record import RunRecord, runs_of
from nightbid.night.sealed import Sealed, seal, unseal
from nightbid.partitions import Partition
from nightbid.storage.files import read_all, write_next
from nightbid.storage.workspace import Workspace, read_manifest

log = logging.getLogger(__name__)

METRIC = "incremental"
"""Key in the metrics of a training's manifest."""
SAME = ("columns", "label", "features", "sampling")
"""Blocks of the YAML that must be the same as those of the state."""
FREE = ("full_every", "drift_ne", "memory_gb", "workers", "checkpoint_seconds")
"""Keys of `train` that may differ from those of the state."""
USUAL_DAYS = 7
SURE = 4.0
"""Minimum difference in standard errors to count as significant."""


class DayScore(Block, allow_inf_nan=True):
    """Quality of predictions for a day that the weights had not learned."""

    day: Partition
    night: Partition
    """Night that scored the day."""
    through: Partition
    """Newest day that the weights had learned."""
    rows: int
    log_loss: float
    normalized_entropy: float
    error: float
    """Standard error of the normalized entropy."""
    auc: float | None = None
    calibration: float | None = None
    """Sum of the predictions divided by the sum of the labels."""


class LearnedDays(Block, allow_inf_nan=True):
    """Days that a night's model has learned, and scores of each day before it was learned."""

    days: tuple[Partition, ...]
    """Days in the weights, oldest first: those of the last full training and each one since."""
    fresh: tuple[Partition, ...]
    """Days learned by this night."""
    left_out: tuple[Partition, ...] = ()
    """Days of the window that a user has undone."""
    full_night: Partition
    """Night of the last full training."""
    nights: int
    """Nights since the last full training; 0 for that night."""
    why_full: str = ""
    """Why this night learned all days; empty if it did not."""
    batch_size: int
    excess: float | None = None
    """Largest excess of a new day over usual days, see `excess_of`; None: none was scored."""
    reference: DayScore | None = None
    """Score of the last full training's validation rows, which it had not learned."""
    curve: tuple[DayScore, ...] = ()
    """Scores of all days before they were learned, oldest first."""

    @property
    def through(self) -> dt.date:
        """Newest day in the weights."""
        return self.days[-1]

    @property
    def usual(self) -> tuple[DayScore, ...]:
        """Scores that a new day is compared with: those of the days since the full training."""
        first = () if self.reference is None else (self.reference,)
        since = tuple(score for score in self.curve if score.night > self.full_night)
        return (*first, *since)[-USUAL_DAYS:]


def excess_of(new: DayScore, usual: tuple[DayScore, ...]) -> float | None:
    """Compute how much worse than usual a new day was predicted, beyond chance.

    Args:
        new: Score of the day before it was learned.
        usual: Scores to compare with.

    Returns:
        Difference of the normalized entropies minus four standard errors, at least 0; None if there
        are no scores to compare with.
    """
    if not usual:
        return None
    count = len(usual)
    mean = sum(score.normalized_entropy for score in usual) / count
    error = math.hypot(new.error, *(score.error / count for score in usual))
    return max(new.normalized_entropy - mean - SURE * error, 0.0)


class Continuation(Block):
    """What a night's training continues from."""

    night: Partition
    why_full: str = ""
    """Why it learns all days; empty: it continues from a state."""
    learned: LearnedDays | None = None
    """Days of the state; if all days are learned, those of the newest earlier night."""
    left_out: tuple[Partition, ...] = ()
    """Days that a user has undone."""


@dataclass(frozen=True)
class FoundContinuation:
    """A continuation and the address of its state; an empty address means that there is none."""

    continuation: Continuation
    uri: str = ""


class DayDecision(Sealed):
    """A user's decision to leave a day out of incremental nights, or to learn it again."""

    change: Literal["undo", "restore"]
    day: Partition
    reason: str
    at: dt.datetime
    by: str = ""


def decide(workspace: Workspace, pipeline: str, decision: DayDecision) -> None:
    """Record a decision about a day."""
    write_next(workspace.champion_folder(pipeline) / "days", seal(decision))


def decisions(workspace: Workspace, pipeline: str) -> list[DayDecision]:
    """All decisions about days, oldest first."""
    folder = workspace.champion_folder(pipeline) / "days"
    return [
        unseal(DayDecision, text, folder / name, "restore this file from a backup, or delete it")
        for name, text in sorted(read_all(folder, ".json").items())
    ]


def undone(workspace: Workspace, pipeline: str) -> dict[dt.date, DayDecision]:
    """Days that are not learned, each with its decision."""
    newest = {decision.day: decision for decision in decisions(workspace, pipeline)}
    return {day: decision for day, decision in sorted(newest.items()) if decision.change == "undo"}


def continuation(run: RunRecord, spec: PipelineSpec, stage: str) -> FoundContinuation:
    """Find the state that a night continues from: the newest usable one before it.

    Args:
        run: Run of the night.
        spec: Pipeline of the night.
        stage: `train` or `train_baseline`.

    Returns:
        A continuation; with a reason instead of a state if all days have to be learned.
    """
    undone_days = undone(run.workspace, spec.pipeline)
    newest: LearnedDays | None = None

    def full(why: str) -> FoundContinuation:
        return FoundContinuation(
            Continuation(night=run.date, why_full=why, learned=newest, left_out=tuple(undone_days))
        )

    if run.head.sweep:
        return full("a trial of a sweep")
    withdrawn = _withdrawn(run.workspace, spec.pipeline)
    for other, manifest, uri in _earlier(run, stage):
        learned = _learned(manifest)
        if learned is None:
            return full(f"the night of {other.date} kept no state")
        newest = newest or learned
        if set(undone_days) & set(learned.days):
            continue  # the state before the day that was undone
        if changed := _changed(other.head.spec, spec, stage):
            return full(f"{changed} has changed since the night of {other.date}")
        gate = other.stage("gate_model")
        if gate is not None and gate.state == "stopped":
            return full(f"gate_model stopped the night of {other.date}")
        if learned.nights and (reference := _worse_than(other)):
            return full(f"the night of {other.date} was worse than the {reference}")
        for night in withdrawn:
            if learned.full_night <= night <= other.date:
                return full(f"the champion of {night} was withdrawn")
        if learned.nights + 1 >= spec.train.full_every:
            return full(f"every {counted(spec.train.full_every, 'night')}")
        return FoundContinuation(
            Continuation(night=run.date, learned=learned, left_out=tuple(undone_days)), uri
        )
    if newest is not None:
        days = ", ".join(str(day) for day in undone_days if day in newest.days)
        return full(f"there is no state without {days}")
    return full("the first night")


def chain(
    workspace: Workspace, pipeline: str, stage: str = "train"
) -> Iterator[tuple[RunRecord, LearnedDays]]:
    """Yield the nights of a pipeline that were trained incrementally, oldest first."""
    newest: dict[dt.date, tuple[RunRecord, LearnedDays]] = {}
    for run in runs_of(workspace, pipeline):
        if (output := _finished(run, stage)) and (learned := _learned(output[0])) is not None:
            newest[run.date] = run, learned
    yield from (newest[night] for night in sorted(newest))


def _earlier(run: RunRecord, stage: str) -> Iterator[tuple[RunRecord, Manifest, str]]:
    """Yield earlier nights whose training is done, newest first, one per night."""
    seen = set()
    others = [other for other in runs_of(run.workspace, run.head.pipeline) if other.date < run.date]
    for other in sorted(
        others, key=lambda other: (other.date, other.head.number, other.head.started), reverse=True
    ):
        if other.date not in seen and (output := _finished(other, stage)) is not None:
            seen.add(other.date)
            yield other, *output


def _finished(run: RunRecord, stage: str) -> tuple[Manifest, str] | None:
    try:
        record = run.stage(stage)
        if record is None or record.state != "done" or not record.uri:
            return None
        return read_manifest(run.workspace.at(record.uri)), record.uri
    except (CorruptDataError, WorkspaceError) as error:
        log.warning("a night's state is left out: %s", error)
        return None


def _worse_than(run: RunRecord) -> str:
    """Name what a night's candidate was worse than; empty if it was not worse."""
    output = _finished(run, "evaluate")
    if output is None or output[0].metrics.get("verdict") != "worse":
        return ""
    return str(output[0].metrics.get("reference", "reference"))


def _learned(manifest: Manifest) -> LearnedDays | None:
    try:
        return LearnedDays.model_validate(manifest.metrics[METRIC])
    except (KeyError, ValidationError):
        return None


def _changed(before: dict[str, Any], spec: PipelineSpec, stage: str) -> str:
    """Name the first setting that differs from the state's; empty if none does."""
    now = spec.model_dump(mode="json")
    # Roles that are newer than the state had their default.
    roles = Columns().model_dump(mode="json")
    before = {**before, "columns": {**roles, **before.get("columns", {})}}
    for name in ("model" if stage == "train" else "baseline", *SAME):
        if before.get(name) != now[name]:
            return f"`{name}`"
    earlier = before.get("train")
    for key, value in now["train"].items():
        if key not in FREE and (not isinstance(earlier, dict) or earlier.get(key) != value):
            return f"`train.{key}`"
    return "" if before.get("seed") == now["seed"] else "`seed`"


def _withdrawn(workspace: Workspace, pipeline: str) -> set[dt.date]:
    """Nights of the champions that a user took out of service."""
    pointer = ChampionPointer(workspace, pipeline)
    withdrawn = pointer.withdrawn()
    return {entry.night for entry in pointer.history()
            if entry.change == "promote" and entry.bundle_digest in withdrawn}  # fmt: skip
