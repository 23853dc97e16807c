"""Features gate: whether the model inputs are sound, also against earlier nights and champion."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nightbid.config.features import Feature
from nightbid.config.pipeline import PipelineSpec
from nightbid.counts import counted
from nightbid.features.fitted import FittedFeatures
from nightbid.features.transforms.transform import class_of
from nightbid.gates import against_champion
from nightbid.gates.drift import beyond_chance, distances, pair
from nightbid.gates.gate import gate
from nightbid.gates.input_checks import measure_drift, measure_faults, measure_leakage, measure_oov
from nightbid.gates.measurements import Measurements
from nightbid.gates.value_inputs import measure_ranking
from nightbid.models.layout import Layout
from nightbid.night.task import StageInput, StageTask
from nightbid.partitions import hours_in
from nightbid.profile.profile import Profile
from nightbid.schema import RESERVED, FeatureSchema, ModelInput
from nightbid.serving.skew import mismatches, paired_rows

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
    tonight = against_champion.TrainingData(train, folder / "fitted")
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
        measure_faults(measurements, model_input, splits, definition, oov, in_part=in_part)
        if model_input.name not in train.columns or model_input.name not in newest.columns:
            continue
        before = unlearned.get(model_input.name, 0.0)
        measure_oov(
            measurements, model_input, featurize.manifest.metrics, newest, task.history, before
        )
        if in_part or (definition is not None and class_of(definition).drifts):
            moving.append(model_input.name)
        else:
            measure_drift(
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
            measure_leakage(measurements, model_input, train, newest)
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
                    note=f"{count['values']:,} of {counted(count['known'], 'value')} cannot be"
                    f" read, for example {count['example']!r}"
                    if count["values"]
                    else "",
                )


def _is_seen_in_part(definition: Feature | None, task: StageTask) -> bool:
    """Whether the evaluate hours cover only part of a feature's cycle, such as 6 hours of a day."""
    cycle = class_of(definition).cycle_hours if definition is not None else 0
    hours = len(task.night.evaluate) * hours_in(task.spec.partition)
    return bool(cycle and hours % cycle)


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
            "skew_mismatches", cells, subject=name, note=f"cells of {counted(len(rows), 'row')}"
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
