"""Checks of one model input in the features gate: faults, OOV values, drift and leakage."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from nightbid.config.features import Feature
from nightbid.counts import counted
from nightbid.features.transforms.transform import class_of
from nightbid.gates.column_checks import RARELY
from nightbid.gates.drift import Distances, auc_error, beyond_chance, distances, pair, transfer_auc
from nightbid.gates.measurements import Measurements
from nightbid.night.task import StageInput
from nightbid.profile.column import ColumnProfile
from nightbid.profile.profile import Profile
from nightbid.schema import ModelInput

LEAST_POSITIVES = 50
"""Minimum number of positives for the finding that one input predicts the label less well now."""
FEWEST_POSITIVES = 10
"""Minimum number of positives for the finding that one input alone reveals the label."""


def measure_faults(
    measurements: Measurements,
    model_input: ModelInput,
    splits: Mapping[str, Profile],
    definition: Feature | None,
    unknown: float = 0.0,
    *,
    in_part: bool = False,
) -> None:
    """Measure faults that do not depend on the meaning of the values.

    Args:
        measurements: Measurements to add to.
        model_input: Model input to measure.
        splits: Name of a split → its profile.
        definition: Feature that the input belongs to; None if it has none.
        unknown: Share of the newest rows that are out of vocabulary. If all are, `oov` reports it
            instead, beyond chance.
        in_part: Whether the newest rows cover only part of the feature's cycle, such as a few hours
            of a day.
    """
    name = model_input.name
    columns = {split: profile.columns.get(name) for split, profile in splits.items()}
    lost = [split for split, column in columns.items() if column is None]
    measurements.add("missing_inputs", len(lost), subject=name, note=", ".join(lost))
    for split, column in columns.items():
        if column is None or not column.rows:
            continue
        measurements.add("nulls", column.nulls, subject=name, part=split)
        measurements.add("not_finite", column.nan + column.infinite, subject=name, part=split)
        if (
            model_input.kind != "float"
            and column.minimum is not None
            and column.maximum is not None
        ):
            wrong = float(column.minimum < 0 or column.maximum >= model_input.size)
            measurements.add(
                "ids_out_of_range",
                wrong,
                subject=name,
                part=split,
                note=f"{column.minimum:g} to {column.maximum:g}, size {model_input.size}",
            )
    train, newest = columns["train"], columns["evaluate"]
    if train is None or newest is None:
        return
    measurements.add("constant", float(train.distinct <= 1), subject=name, part="train")
    # A single day has a single weekday, so the input is constant.
    of_the_day = in_part or (
        definition is not None and not class_of(definition).varies_within_a_day
    )
    by_chance = constant_by_chance(train, newest)
    measurements.add(
        "newly_constant",
        float(
            newest.distinct <= 1 < train.distinct
            and not of_the_day
            and by_chance < RARELY
            and unknown < 1
        ),
        subject=name,
        part="evaluate",
        note=f"{counted(round(train.distinct), 'distinct value')} in training",
    )
    if model_input.kind == "id":
        before, now = _zero_share(train), _zero_share(newest)
        measurements.add(
            "missing_excess",
            max(beyond_chance(now - before, 0.0, _share_error(before, newest.values)), 0.0),
            subject=name,
            part="evaluate",
            note=f"missing in {now:.2%} of rows, in training {before:.2%}",
        )


def constant_by_chance(train: ColumnProfile, newest: ColumnProfile) -> float:
    """Compute the probability that all newest rows have the most frequent value of training.

    The items of a list count as one draw, since they are not independent.
    """
    if not train.values:
        return 1.0
    draws = min(newest.values, newest.rows)
    return float((train.bins.counts.max() / train.values) ** draws)


def _share_error(usual: float, values: int) -> float:
    """Compute the standard error of the share of values, given its usual size."""
    values = max(values, 1)
    return math.sqrt(max(usual * (1 - usual), 1 / values) / values)


def _zero_share(column: ColumnProfile) -> float:
    zero = column.bins.keys == 0
    return float(column.bins.counts[zero].sum() / max(column.values, 1))


def measure_oov(
    measurements: Measurements,
    model_input: ModelInput,
    metrics: Mapping[str, Any],
    newest: Profile,
    history: tuple[StageInput, ...],
    unlearned: float = 0.0,
) -> None:
    """Measure the share of OOV values in the newest rows, in excess of what is usual.

    Args:
        measurements: Measurements to add to.
        model_input: Model input to measure.
        metrics: Metrics of the featurize stage.
        newest: Profile of the newest rows.
        history: Outputs of earlier nights.
        unlearned: Share of OOV values in the validation rows. Their share is higher than in the
            training rows, because a value has an id for being frequent in the training rows.
    """
    name = model_input.name
    rate = metrics.get("oov_rate", {}).get(name)
    if rate is None:
        return
    before = max(metrics.get("oov_rate_train", {}).get(name, 0.0), unlearned)
    # Rare values are OOV in the training rows too; with few rows, nearly all values are.
    known = max(1 - before, 1e-9)
    lost = max(rate - before, 0.0) / known
    due = max(newest.columns[name].values * known, 1e-9)
    note = f"{rate:.2%} of the newest rows, {before:.2%} of the rows before"
    measurements.add("oov", beyond_chance(lost, 0.0, 1 / math.sqrt(due)), subject=name, note=note)
    earlier = [
        value
        for night in history
        if (value := night.manifest.metrics.get("oov_rate", {}).get(name)) is not None
    ]
    if earlier:
        usual, values = float(np.median(earlier)), newest.columns[name].values
        measurements.add(
            "oov_excess",
            max(beyond_chance(rate - usual, 0.0, _share_error(usual, values)), 0.0),
            subject=name,
            note=f"{rate:.2%}, usually {usual:.2%}",
        )


def measure_drift(
    measurements: Measurements,
    model_input: ModelInput,
    splits: Mapping[str, Profile],
    history: list[dict[str, float]],
    *,
    is_learned: bool,
) -> None:
    """Compare the newest rows with the training rows.

    A vocabulary is learned from the training rows, which have more of its values than other rows
    do. So such ids (`is_learned`) have drifted only if the newest rows also differ from the
    validation rows.
    """
    name = model_input.name
    train, newest = splits["train"], splits["evaluate"]
    drift = distances(pair(newest.columns[name], train.columns[name]))
    between = splits["validate"].columns.get(name)
    if is_learned and between is not None and between.values:
        other = distances(pair(newest.columns[name], between))
        drift = Distances(*map(min, zip(drift, other, strict=True)))
    means = [train.columns[name].mean, newest.columns[name].mean]
    note = (
        f"mean {means[0]:.4g} → {means[1]:.4g}"
        if model_input.kind == "float" and None not in means
        else ""
    )
    for family, value in drift._asdict().items():
        measurements.add(family, value, subject=name, part="evaluate vs train", note=note)
    earlier = [night[name] for night in history if name in night]
    if earlier:
        measurements.add(
            "psi_excess",
            max(drift.psi - max(earlier), 0.0),
            subject=name,
            part="evaluate vs train",
            note=f"{drift.psi:.3f}, before at most {max(earlier):.3f}",
        )


def measure_leakage(
    measurements: Measurements, model_input: ModelInput, train: Profile, newest: Profile
) -> None:
    """Measure how well one input alone predicts the label, from one set of rows to the other."""
    name = model_input.name
    fewest = min(train.label.positives, newest.label.positives)
    if fewest < FEWEST_POSITIVES:
        return
    new, old = newest.columns[name], train.columns[name]
    ahead, error = transfer_auc(pair(new, old))
    # An AUC far above 0.5 has a smaller error than one near 0.5, so few positives show a leak.
    sure = auc_error(ahead, newest.label.positives, newest.label.rows - newest.label.positives)
    measurements.add(
        "single_auc",
        beyond_chance(ahead, 0.5, min(error, sure)),
        subject=name,
        part="evaluate",
        note=f"alone {ahead:.3f}, on {counted(newest.label.positives, 'positive')}",
    )
    if fewest < LEAST_POSITIVES:
        return
    back, _ = transfer_auc(pair(old, new))
    measurements.add(
        "single_auc_gap",
        max(beyond_chance(back - ahead, 0.0, 1.4 * error), 0.0),
        subject=name,
        part="train vs evaluate",
        note=f"alone {back:.3f} in training, {ahead:.3f} in the newest rows",
    )
