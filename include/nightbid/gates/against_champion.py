"""Drift of tonight's training rows from the champion's, and share of new vocabulary values.

Ids are renumbered each night, so they are compared by the values that they stand for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.stats import poisson

from nightbid.counts import are, counted
from nightbid.errors import NightbidError, WorkspaceError
from nightbid.gates.drift import GROUPS, SIGMAS, BinnedPair, distances, pair
from nightbid.gates.measurements import Measurements
from nightbid.night.record import RunRecord
from nightbid.night.task import StageTask
from nightbid.profile.bins import Ints
from nightbid.profile.column import ColumnProfile
from nightbid.profile.profile import Profile
from nightbid.schema import FeatureSchema, ModelInput
from nightbid.storage.workspace import fetch

PART = "train vs champion's train"
TENTH = 0.1
BY_CHANCE = 0.01
"""Largest probability at which a value that the other side lacks counts as missing by chance."""
OLD_DAYS = 14
"""Age in days beyond which (and beyond a window) a champion is too old to compare its ids."""


@dataclass(frozen=True)
class TrainingData:
    """The training data of a model."""

    profile: Profile
    """Profile of the training rows."""
    fitted: Path
    """Folder of the fitted features."""
    is_old: bool = False
    """Whether the training rows are weeks older than tonight's."""

    def input(self, name: str) -> ModelInput | None:
        """Look up an input by name."""
        inputs = FeatureSchema.load(self.fitted).inputs
        return next((model_input for model_input in inputs if model_input.name == name), None)


def champions(task: StageTask, measurements: Measurements) -> TrainingData | None:
    """Find the training data of the champion, or record why they are unavailable."""
    champion = task.inputs.get("champion")
    if champion is None:
        measurements.skip("drift against the champion's training rows: there is no champion yet")
        return None
    try:
        run = RunRecord.load(task.workspace, task.spec.pipeline, champion.manifest.run_id)
        record = run.stage("featurize")
    except NightbidError:
        record = None
    if record is None or not record.uri:
        measurements.skip(
            f"drift against the champion's rows: {champion.manifest.run_id} is deleted"
        )
        return None
    try:
        folder = fetch(task.workspace.at(record.uri), ("profile/", "fitted/"))
    except WorkspaceError:
        measurements.skip(
            f"drift against the champion's rows: those of {champion.manifest.run_id} were pruned"
        )
        return None
    path = folder / "profile" / "split=train.json"
    if not path.exists():
        return None
    night = task.night
    window = len(night.train) + len(night.validate_) + len(night.evaluate)
    age = (night.date - run.date).days
    is_old = age > max(OLD_DAYS, window)
    if is_old:
        measurements.skip(
            f"ids against those of the champion: its night was {counted(age, 'day')} ago, and"
            " other ids are shown now"
        )
    return TrainingData(Profile.load(path), folder / "fitted", is_old)


def measure(
    measurements: Measurements,
    model_input: ModelInput,
    tonight: TrainingData,
    champion: TrainingData,
    *,
    is_log_rate: bool = False,
    days: int = 1,
    least: int = 1,
) -> None:
    """Measure the drift of one input; an input that the champion does not have is skipped.

    Args:
        measurements: Measurements to add to.
        model_input: Model input to compare.
        tonight: Training data of tonight's candidate.
        champion: Training data of the champion.
        is_log_rate: Whether the input is the logarithm of learned rates.
        days: Number of training days.
        least: Minimum number of rows that a value needs for an id of its own.
    """
    new = tonight.profile.columns[model_input.name]
    old = champion.profile.columns.get(model_input.name)
    champion_input = champion.input(model_input.name)
    if (
        old is None
        or champion_input is None
        or old.kind != new.kind
        or champion_input.kind != model_input.kind
    ):
        return
    if model_input.kind == "float":
        both: BinnedPair | None = pair(new, old)
    elif champion.is_old:
        # After a pause of weeks the logs have other ids, which is no fault of tonight's rows.
        return
    else:
        vocabulary = _tokens(tonight.fitted, model_input)
        known = _tokens(champion.fitted, champion_input)
        if vocabulary is None or known is None:
            return
        ratio = champion.profile.rows / max(tonight.profile.rows, 1)
        _churn(measurements, model_input, new, vocabulary, known, ratio)
        both = _by_token((new, model_input, vocabulary), (old, champion_input, known), ratio, least)
    if both is None:
        return
    matters = TENTH if is_log_rate else 0.0
    chance = _move_by_chance(tonight.profile, new, days) if is_log_rate else 0.0
    for family, value in distances(both, matters, chance=chance)._asdict().items():
        measurements.add(f"{family}_champion", value, subject=model_input.name, part=PART)


def _move_by_chance(profile: Profile, rates: ColumnProfile, days: int) -> float:
    """Get twice the standard error of the log odds, by which they move when learned again.

    The log odds of n rows with a share p of positives have a standard error of 1 / √(n p (1 - p)).
    On average the rates of a training day are learned from half of the rows. The more rates there
    are, the more their moves cancel out in the distribution; numbers above `GROUPS` are capped.
    """
    rows, positives = profile.label.rows, profile.label.positives
    known = positives * (1 - positives / max(rows, 1))
    keys = min(rates.distinct / max(days, 1), GROUPS)
    return 2 * math.sqrt(2 * keys / known) if known else 0.0


def _churn(
    measurements: Measurements,
    model_input: ModelInput,
    column: ColumnProfile,
    vocabulary: pa.Array,
    known: pa.Array,
    ratio: float,
) -> None:
    """Measure the share of values with an id of their own for which the champion has none.

    A value that is only just frequent enough for an id tonight may have missed it by chance. So the
    share that the same values would lose if they were drawn again is subtracted, plus four of its
    standard errors; the rest is a share of the remaining values.

    Args:
        measurements: Measurements to add to.
        model_input: Model input to compare.
        column: Profile of the input in tonight's training rows.
        vocabulary: Vocabulary of tonight.
        known: Vocabulary of the champion.
        ratio: Number of the champion's training rows over tonight's.
    """
    places, counts = _places(column, model_input, vocabulary)
    own = places >= 0
    unknown = np.asarray(pc.is_null(pc.index_in(vocabulary, known)))
    total = int(counts[own].sum())
    if total:
        share = float(counts[own][unknown[places[own]]].sum() / total)
        missed, spread = _churn_by_chance(counts[own], ratio)
        chance = min(missed + SIGMAS * spread, 1.0)
        new, of = int(unknown.sum()), counted(len(vocabulary), "entry", "entries")
        note = f"{new:,} of {of} of the vocabulary {are(new)} new"
        if chance:
            note += f": {share:.1%} of the rows, {chance:.1%} by chance"
        excess = max(share - chance, 0.0) / (1 - missed) if missed < 1 else 0.0
        measurements.add("vocabulary_churn", excess, subject=model_input.name, part=PART, note=note)


def _churn_by_chance(counts: Ints, ratio: float) -> tuple[float, float]:
    """Get the share of rows whose value is too rare in a redraw of the rows, and its error."""
    missed = poisson.cdf(counts.min() - 1, counts * ratio)
    mass = counts.astype(float)
    spread = math.sqrt(float((mass**2 * missed * (1 - missed)).sum()))
    return float((mass * missed).sum() / mass.sum()), spread / float(mass.sum())


def _by_token(
    one: tuple[ColumnProfile, ModelInput, pa.Array],
    two: tuple[ColumnProfile, ModelInput, pa.Array],
    ratio: float,
    least: int,
) -> BinnedPair | None:
    """Align counts by token; missing and OOV values share the last bin.

    The last bin also has tokens of one side that may be OOV on the other by chance, because they
    are rare. `vocabulary_churn` counts those.

    Args:
        one: Column profile, input and vocabulary of tonight.
        two: Column profile, input and vocabulary of the champion.
        ratio: Number of the champion's training rows over tonight's.
        least: Minimum number of rows that a value needs for an id of its own.

    Returns:
        The aligned counts; None if the sample of a side does not have all values.
    """
    if not (one[0].sample.complete and two[0].sample.complete):
        return None
    tokens = pc.unique(pa.concat_arrays([one[2], two[2].cast(one[2].type)]))
    aligned = []
    for (column, model_input, vocabulary), other_vocabulary, more in (
        (one, two[2].cast(one[2].type), ratio),
        (two, one[2], 1 / ratio),
    ):
        places, counts = _places(column, model_input, vocabulary)
        at = np.asarray(pc.index_in(vocabulary.cast(tokens.type), tokens), np.int64)
        alone = np.asarray(pc.is_null(pc.index_in(vocabulary.cast(tokens.type), other_vocabulary)))
        # Values come in bursts, so the number of rows of a value is assumed to be geometric.
        missed = 1 - (counts * more / (1 + counts * more)) ** float(least)
        known = places >= 0
        if len(at):
            known &= ~(alone[np.maximum(places, 0)] & (missed > BY_CHANCE))
        bins = np.where(known, at[np.maximum(places, 0)] if len(at) else 0, len(tokens))
        aligned.append(
            np.bincount(bins, weights=counts, minlength=len(tokens) + 1).astype(np.int64)
        )
    nothing = np.zeros_like(aligned[0])
    return BinnedPair(aligned[0], nothing, aligned[1], nothing, ordered=False, middles=np.zeros(0))


def _places(column: ColumnProfile, model_input: ModelInput, tokens: pa.Array) -> tuple[Ints, Ints]:
    """Get the index of each sampled id in the vocabulary (below 0: missing or OOV) and its rows."""
    ids = np.asarray(column.sample.values, np.float64).astype(np.int64)
    return ids - (model_input.size - len(tokens)), column.sample.counts


def _tokens(fitted: Path, model_input: ModelInput) -> pa.Array | None:
    """Get the vocabulary of an input in the order of its ids; None if it has no vocabulary."""
    path = fitted / "vocabularies" / f"{model_input.vocabulary or model_input.feature}.parquet"
    return pq.read_table(path)["token"].combine_chunks() if path.exists() else None
