"""Incremental nights: score each new day, then train on it alone or retrain on all days."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow.parquet as pq

from nightbid.config.models import Train
from nightbid.counts import counted
from nightbid.errors import MissingDataError
from nightbid.evaluation import metrics
from nightbid.evaluation.scores import ScoreTable, clipped, log_losses
from nightbid.models.folder import ModelCard, load_card
from nightbid.models.layout import Layout
from nightbid.models.network import Network
from nightbid.night.incremental import Continuation, DayScore, LearnedDays, excess_of
from nightbid.partitions import HourPartition, partition_of
from nightbid.schema import split_files
from nightbid.training.data import SplitRows
from nightbid.training.validation import Score, ValidationMetrics
from nightbid.training.warm import take_all, why_cold

if TYPE_CHECKING:
    from nightbid.training.job import FitJob

TrainingDays = tuple[dt.date, ...]
CURVE_DAYS = 60
"""Maximum number of days of the learning curve that are kept."""


class TrainingSource(Protocol):
    """Reads the rows of some training days."""

    def train(self, *, serving: bool) -> SplitRows:
        """Read the rows; `serving` blanks the training-only inputs."""


@dataclass(frozen=True)
class Lesson:
    """What a night trains on, and the state that it starts from."""

    continuation: Continuation
    train: Train
    window: tuple[dt.date, ...]
    """Training days of the night for which data exist, without the days that a user undid."""
    left_out: tuple[dt.date, ...]
    """Training days that a user undid."""
    fresh: tuple[dt.date, ...]
    """Days to train on."""
    why_full: str
    """Reason for training on all days; empty if the night trains on the new days only."""
    scored: tuple[DayScore, ...] = ()
    """Scores of the new days by the earlier state, before they are learned."""
    excess: float | None = None
    """Excess of normalized entropy over the usual one, beyond chance, on the worst new day."""
    old: ModelCard | None = None
    """Model card of the earlier state; None if the night trains on all days."""
    share: float = 1.0
    """Share of the window's rows that the night trains on."""

    @property
    def before(self) -> LearnedDays | None:
        """What the earlier state has learned; None if the night trains on all days."""
        return None if self.why_full else self.continuation.learned

    @property
    def settings(self) -> Train:
        """The `train` block, reduced to one pass if only the new days are learned."""
        if self.before is None:
            return self.train
        return self.train.model_copy(
            update={
                "batch_size": self.before.batch_size,
                "epochs": 1,
                "patience": 0,
                "reset_tables": "none",
            }
        )

    def learned(
        self, batch_size: int, result: ValidationMetrics, validation: SplitRows
    ) -> LearnedDays:
        """Describe what the weights have learned after the night.

        Args:
            batch_size: Rows per step.
            result: Validation metrics.
            validation: Validation rows.
        """
        past = self.continuation.learned
        curve = (*(past.curve if past else ()), *self.scored)[-CURVE_DAYS:]
        if before := self.before:
            return before.model_copy(
                update={
                    "days": (*before.days, *self.fresh),
                    "fresh": self.fresh,
                    "left_out": self.left_out,
                    "nights": before.nights + 1,
                    "why_full": "",
                    "excess": self.excess,
                    "curve": curve,
                }
            )
        night = self.continuation.night
        base = metrics.entropy(validation.rate)
        reference = None
        if base > 0:
            reference = DayScore(
                day=night, night=night, through=self.window[-1], rows=len(validation),
                log_loss=result.log_loss, normalized_entropy=result.log_loss / base,
                error=0.0, auc=result.auc,
            )  # fmt: skip
        return LearnedDays(
            days=self.window, fresh=self.fresh, left_out=self.left_out, full_night=night, nights=0,
            why_full=self.why_full, batch_size=batch_size, excess=self.excess,
            reference=reference, curve=curve,
        )  # fmt: skip


def days_of(featurized: Path) -> tuple[dt.date, ...]:
    """Return the training days of a featurize output, oldest first."""
    names = {path.parent.name.removeprefix("dt=") for path in split_files(featurized, "train")}
    return tuple(sorted(map(partition_of, names)))


def _step(days: tuple[dt.date, ...]) -> dt.timedelta:
    """Return the shortest time between consecutive partitions; the unit's length if only one."""
    least = dt.timedelta(hours=1) if isinstance(days[0], HourPartition) else dt.timedelta(days=1)
    return min((later - day for day, later in pairwise(days)), default=least)


def share_of_rows(featurized: Path, days: Iterable[dt.date], of: Iterable[dt.date]) -> float:
    """Compute the share of training rows that some days have.

    Args:
        featurized: Output folder of the featurize stage.
        days: Days to count, a subset of `of`.
        of: Days that the share refers to.
    """
    counted, everything = set(days), set(of)
    rows = {True: 0, False: 0}
    for path in split_files(featurized, "train"):
        day = partition_of(path.parent.name.removeprefix("dt="))
        if day in everything:
            rows[day in counted] += pq.read_metadata(path).num_rows
    return rows[True] / max(sum(rows.values()), 1)


def plan_lesson(
    job: FitJob, layout: Layout, source: Callable[[TrainingDays], TrainingSource]
) -> Lesson:
    """Decide whether a night trains on the new days or on all days.

    Args:
        job: Training job, with its continuation.
        layout: Tonight's model inputs.
        source: Function that returns a reader for the rows of the given training days.
    """
    continuation = job.continuation
    assert continuation is not None
    days = days_of(job.featurized)
    window = tuple(day for day in days if day not in continuation.left_out)
    out = tuple(day for day in days if day in continuation.left_out)
    learned = continuation.learned

    def full(why: str, scored: tuple[DayScore, ...] = (), excess: float | None = None) -> Lesson:
        return Lesson(continuation, job.train, window, out, window, why, scored, excess)

    if not window:
        raise MissingDataError(
            "no training day is left",
            where="train",
            hint="widen the window, or restore a day that was undone:"
            " `nightbid incremental restore PIPELINE DAY`",
        )
    if continuation.why_full or learned is None or job.start is None:
        return full(continuation.why_full or "the first night")
    fresh = tuple(day for day in window if day > learned.through)
    if not fresh:
        return full(f"{learned.through} is the newest day already")
    if days[0] - learned.through > _step(days):
        return full(f"the state ends on {learned.through}, before the window")
    old = load_card(job.start / "model")
    card = old.model_copy(update={"features": layout.schema})
    if why := why_cold(old, card):
        return full(f"training cannot continue from the state, {why}")
    network = Network(card)
    take_all(network, None, job.start, job.featurized / "fitted")
    scored = tuple(
        score_day(
            network.score, source((day,)).train(serving=True), day, continuation.night,
            learned.through,
        )
        for day in fresh
    )  # fmt: skip
    excesses = {score.day: excess_of(score, learned.usual) for score in scored}
    excess = max((value for value in excesses.values() if value is not None), default=None)
    if excess is not None and excess > job.train.drift_ne:
        day = next(day for day, value in excesses.items() if value == excess)
        return full(
            f"NE of {day} before it was learned is {excess:.4f} above the usual one, beyond chance;"
            f" train.drift_ne is {job.train.drift_ne:g}",
            scored,
            excess,
        )
    share = share_of_rows(job.featurized, fresh, window)
    return Lesson(continuation, job.train, window, out, fresh, "", scored, excess, old, share)


def score_day(
    score: Score, rows: SplitRows, day: dt.date, night: dt.date, through: dt.date
) -> DayScore:
    """Score a day that the model has not learned yet.

    Args:
        score: Function from model inputs to probabilities.
        rows: Rows of the day, as served.
        day: Day of the rows.
        night: Night that scores the day.
        through: Latest day that the model has learned.
    """
    table: ScoreTable | None = None
    rate = rows.rate
    base = metrics.entropy(rate)
    constant = clipped(np.array([rate]))[0]
    mass, losses, naive = [], [], []
    for piece in rows.pieces():
        labels, weights = (column.astype(np.float64) for column in (piece.labels, piece.weights))
        p = clipped(score(piece.inputs))
        part = ScoreTable.of(piece.labels, p, piece.weights)
        table = part if table is None else table.merge(part)
        mass.append(weights)
        losses.append(log_losses(labels, p))
        naive.append(log_losses(labels, np.full(len(labels), constant)))
    assert table is not None
    weights = np.concatenate(mass)
    loss = metrics.log_loss(table)
    entropy = loss / base if base > 0 else 1.0
    # Standard error of a ratio: NE is the model's loss over the loss of the mean rate, same rows.
    apart = weights * (np.concatenate(losses) - entropy * np.concatenate(naive))
    error = float(np.sqrt((apart**2).sum())) / (float(weights.sum()) * base) if base > 0 else 0.0
    area, scale = metrics.auc(table), metrics.calibration(table)
    return DayScore(
        day=day, night=night, through=through, rows=len(rows), log_loss=loss,
        normalized_entropy=entropy, error=error, auc=metrics.known(area),
        calibration=metrics.known(scale),
    )  # fmt: skip


def said_of(learned: LearnedDays) -> str:
    """Summarize in one line what was learned, and how well it was predicted beforehand."""
    days = ", ".join(map(str, learned.fresh))
    out = f", without {', '.join(map(str, learned.left_out))}" if learned.left_out else ""
    if learned.why_full:
        return f"learned all {counted(len(learned.fresh), 'day')}{out}: {learned.why_full}"
    sentence = f"learned {days} alone{out}, night {learned.nights} since all days"
    newest = learned.curve[-1]
    usual = learned.model_copy(update={"curve": learned.curve[: -len(learned.fresh)]}).usual
    mean = sum(score.normalized_entropy for score in usual) / max(len(usual), 1)
    return sentence + (
        f"; {newest.day} before it was learned: NE {newest.normalized_entropy:.4f}"
        + (f", usually {mean:.4f}" if usual else "")
    )
