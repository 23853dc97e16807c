"""Features gate: whether the model inputs are sound, also against earlier nights and champion."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nightbid.config.features import Feature
from nightbid.config.pipeline import PipelineSpec
from nightbid.features.fitted import FittedFeatures
from nightbid.features.transforms.transform import class_of
from nightbid.gates import against_champion
from nightbid.gates.column_checks import RARELY
from nightbid.gates.drift import Distances, auc_error, beyond_chance, distances, pair, transfer_auc
from nightbid.gates.gate import gate
from nightbid.gates.measurements import Measurements
from nightbid.gates.value_inputs import measure_ranking
from nightbid.models.layout import Layout
from nightbid.night.task import StageInput, StageTask
from nightbid.partitions import hours_in
from nightbid.profile.column import ColumnProfile
from nightbid.profile.profile import Profile
from nightbid.schema import RESERVED, FeatureSchema, ModelInput
from nightbid.serving.skew import mismatches, paired_rows

LEAST_POSITIVES = 50
FEWEST_POSITIVES = 10
"""Minimum number of positives for the finding that one input alone reveals the label."""
SKEW_ROWS = 2000
"""Number of rows of each split that are looked up as at serving, to find skew."""


@gate("features")
def measure(task: StageTask) -> Measurements:
    """Measure all model inputs."""
    measurements = Measurements()
    featurize = task.inputs["featurize"]
    folder = featurize.part("fitted/", "profile/")
    schema = FeatureSchema.load(folder / "fitted")
    splits = {
        split: Profile.load(folder / "profile" / f"split={split}.json")
        for split in ("train", "validate", "evaluate")
    }
    for split, profile in splits.items():
        measurements.add("rows", profile.rows, part=split)
    _lost_rows(measurements, task, sum(profile.rows for profile in splits.values()))
    train, newest = splits["train"], splits["evaluate"]
    _label_rate(measurements, train, newest)
    history = [_newest_against_train(night) for night in task.history]
    if not history:
        measurements.skip("drift against earlier nights: this is the first one")
    champion = against_champion.champions(task, measurements)
    tonight = against_champion.Trained(train, folder / "fitted")
    _unreadable(measurements, featurize.manifest.metrics.get("unreadable", {}))
    positions = task.spec.position_inputs()
    for name in positions:
        measurements.add("position_as_input", 1.0, subject=name, note="ranking decides the slot")
    if task.spec.columns.position and not positions:
        measurements.add("position_as_input", 0.0)
    moving: list[str] = []
    unknown: Mapping[str, float] = featurize.manifest.metrics.get("oov_rate", {})
    unlearned = _unlearned(folder)
    for model_input in schema.inputs:
        definition = task.spec.features.get(model_input.feature)
        in_part = _is_seen_in_part(definition, task)
        oov = unknown.get(model_input.name, 0.0)
        _sound(measurements, model_input, splits, definition, oov, in_part=in_part)
        if model_input.name not in train.columns or model_input.name not in newest.columns:
            continue
        before = unlearned.get(model_input.name, 0.0)
        _oov(measurements, model_input, featurize.manifest.metrics, newest, task.history, before)
        if in_part or (definition is not None and class_of(definition).drifts):
            moving.append(model_input.name)
        else:
            _drift(
                measurements, model_input, splits, history, is_learned=model_input.name in unlearned
            )
        if champion is not None:
            against_champion.measure(
                measurements,
                model_input,
                tonight,
                champion,
                is_log_rate=definition is not None and class_of(definition).is_log,
                days=len(task.night.train),
                least=_least_rows(task.spec, model_input),
            )
        if task.spec.label.kind == "binary":
            _leakage(measurements, model_input, train, newest)
    _skew(measurements, task, Layout(schema), FittedFeatures.load(folder / "fitted"))
    if task.spec.label.kind == "value":
        featurized = featurize.part(*_first_files(featurize))
        measure_ranking(measurements, featurized, Layout(schema), schema.inputs)
    if moving:
        measurements.skip(
            f"drift of {', '.join(moving)} within the window: the newest day differs from the"
            " training days by what these are"
        )
    return measurements


def _lost_rows(measurements: Measurements, task: StageTask, featurized: int) -> None:
    """Measure the number of sampled rows minus the number of featurized rows.

    History days are excluded, because they only feed features of the past. Young days are a split
    of their own.
    """
    sample = task.inputs["sample"].manifest
    days = sample.metrics.get("days", {})
    history = sum(days[name]["written"] for day in task.night.history if (name := str(day)) in days)
    young = task.inputs["featurize"].part("profile/") / "profile" / "split=young.json"
    if young.exists():
        featurized += Profile.load(young).rows
    lost = sample.rows.written - history - featurized
    measurements.add("lost_rows", lost, note="rows sampled minus rows featurized")


def _label_rate(measurements: Measurements, train: Profile, newest: Profile) -> None:
    before, now = train.label_rate, newest.label_rate
    if not before or now is None:
        measurements.add("label_rate_ratio", None, note=f"label rate {now} after {before}")
        return
    error = 1 / max(newest.label.positives, 1) ** 0.5
    measurements.add(
        "label_rate_ratio",
        beyond_chance(now / before, 1.0, error),
        note=f"newest rows {now:.4f}, training rows {before:.4f}",
    )


def _unreadable(
    measurements: Measurements, splits: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> None:
    """Measure the share of values that features cannot read as numbers or times."""
    for split, features in splits.items():
        for name, count in features.items():
            if count["known"]:
                measurements.add(
                    "unreadable",
                    count["values"] / count["known"],
                    subject=name,
                    part=split,
                    note=f"{count['values']:,} of {count['known']:,} values cannot be read, for"
                    f" example {count['example']!r}"
                    if count["values"]
                    else "",
                )


def _is_seen_in_part(definition: Feature | None, task: StageTask) -> bool:
    """Whether the evaluate hours cover only part of a feature's cycle, such as 6 hours of a day."""
    cycle = class_of(definition).cycle_hours if definition is not None else 0
    hours = len(task.night.evaluate) * hours_in(task.spec.partition)
    return bool(cycle and hours % cycle)


def _sound(
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
    by_chance = _constant_by_chance(train, newest)
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
        note=f"{train.distinct:,.0f} distinct values in training",
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


def _constant_by_chance(train: ColumnProfile, newest: ColumnProfile) -> float:
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


def _oov(
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


def _drift(
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


def _leakage(
    measurements: Measurements, model_input: ModelInput, train: Profile, newest: Profile
) -> None:
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
        note=f"alone {ahead:.3f}, on {newest.label.positives:,} positives",
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


def _skew(
    measurements: Measurements, task: StageTask, layout: Layout, fitted: FittedFeatures
) -> None:
    """Compare some rows with lookups as at serving, before paying for a training."""
    sample, featurize = task.inputs["sample"], task.inputs["featurize"]
    raw, rows = paired_rows(
        sample.part(*_first_files(sample)),
        featurize.part(*_first_files(featurize)),
        layout,
        SKEW_ROWS,
    )
    measurements.add("skew_rows", len(rows), note="looked up as at serving")
    for name, cells in mismatches(raw, rows, fitted).items():
        measurements.add(
            "skew_mismatches", cells, subject=name, note=f"cells of {len(rows):,} rows"
        )


def _first_files(of: StageInput) -> list[str]:
    """List the first file of the newest day of each split."""
    first: dict[str, str] = {}
    for name in sorted((file.path for file in of.manifest.files), reverse=True):
        split, _, rest = name.partition("/")
        day = rest.partition("/")[0]
        if split.startswith("split=") and first.get(split, name).startswith(f"{split}/{day}/"):
            first[split] = name
    return list(first.values())


def _unlearned(folder: Path) -> dict[str, float]:
    """Map each input to the share of OOV values in the validation rows."""
    path = folder / "profile" / "oov-validate.json"
    if not path.exists():
        return {}
    counts: dict[str, tuple[int, int]] = json.loads(path.read_text())
    return {name: outside / max(known, 1) for name, (outside, known) in counts.items()}


def _least_rows(spec: PipelineSpec, model_input: ModelInput) -> int:
    """Get the minimum number of rows that a value needs for an id of its own."""
    return int(
        getattr(spec.features.get(model_input.vocabulary or model_input.feature), "min_count", 1)
    )


def _newest_against_train(night: StageInput) -> dict[str, float]:
    """Map each input to its PSI on an earlier night, newest against training rows."""
    folder = night.part("profile/") / "profile"
    train = Profile.load(folder / "split=train.json")
    newest = Profile.load(folder / "split=evaluate.json")
    drifts = {}
    for name, column in train.columns.items():
        if name not in RESERVED and name in newest.columns:
            drifts[name] = distances(pair(newest.columns[name], column)).psi
    return drifts
