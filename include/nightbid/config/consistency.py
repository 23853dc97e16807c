"""Checks across the blocks of a pipeline: each error names the keys that contradict each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from nightbid.config.event_source import JOINED, EventsSource
from nightbid.config.folder_source import FolderSource
from nightbid.config.sources import SimulatorSource
from nightbid.counts import counted
from nightbid.schema import RESERVED

if TYPE_CHECKING:
    from nightbid.config.pipeline import PipelineSpec

PRESETS = {
    "week": ("@weekly", "@monthly", "@yearly", "@once"),
    "day": ("@daily", "@weekly", "@monthly", "@yearly", "@once"),
    "hour": ("@hourly", "@daily", "@weekly", "@monthly", "@yearly", "@once"),
}
"""Unit of a partition → schedule presets that run at most once per partition."""
NOT_FOR_VALUES = ("esmm", "ensemble")
"""Architectures that combine probabilities, so that they cannot predict values."""


def names_are_free(spec: PipelineSpec) -> None:
    """Refuse reserved names and two model inputs with the same name."""
    for where, name in names_of(spec):
        if name in RESERVED:
            raise ValueError(
                f"{where} is {name!r}, a name that Nightbid reserves; rename "
                "it (source.rename renames columns of the logs)"
            )
    feature_of: dict[str, str] = {}
    for feature, block in spec.features.items():
        for name in block.inputs(feature):
            if name in feature_of:
                raise ValueError(
                    f"features {feature_of[name]!r} and {feature!r} both make the model input"
                    f" {name!r}; rename one of them"
                )
            feature_of[name] = feature


def joined_label_is_final(spec: PipelineSpec) -> None:
    """Refuse a label of joined events that would be read before their attribution window ends."""
    source, label = spec.source, spec.label
    if not isinstance(source, EventsSource) or label.column not in JOINED:
        return
    if label.attribution_days < source.attribution_days:
        raise ValueError(
            f"label.attribution_days is {label.attribution_days}, but events are joined until"
            f" {counted(source.attribution_days, 'day')} after the impression"
            " (source.attribution_days); leave label.attribution_days out"
        )
    if JOINED[label.column] == "conversion_time" and source.conversions is None:
        raise ValueError(
            f"label.column {label.column!r} is a column of conversions, but source.conversions "
            "names no folder"
        )


def arrival_suits_the_source(spec: PipelineSpec) -> None:
    """Refuse an arrival that the source or the schedule contradicts."""
    if spec.arrival is None:
        return
    if spec.arrival.marker and not isinstance(spec.source, FolderSource):
        raise ValueError(
            f"arrival.marker needs a folder of daily files, but this is `kind: {spec.source.kind}`"
        )
    if spec.arrival.asset and spec.schedule:
        raise ValueError(
            f"arrival.asset {spec.arrival.asset!r} starts the night, and so does schedule"
            f" {spec.schedule!r}; remove one of them"
        )


def window_counts_partitions(spec: PipelineSpec) -> None:
    """Refuse a window in another unit than the partitions of the logs."""
    unit, counted = spec.partition, spec.window.unit
    if unit == counted:
        return
    if not spec.window.model_fields_set:
        raise ValueError(
            f"source.partition is {unit}, but window sets no lengths; write "
            f"window.train_{unit}s, validate_{unit}s and evaluate_{unit}s"
        )
    raise ValueError(
        f"window counts {counted}s, and source.partition is {unit!r}; write window.train_{unit}s"
        f" and so on, or set source.partition: {counted}"
    )


def schedule_suits_partitions(spec: PipelineSpec) -> None:
    """Refuse a schedule that would run more than once per partition."""
    fields = (spec.schedule or "").split()
    if not fields or spec.schedule in PRESETS[spec.partition]:
        return
    single = [not set(field) & set("*,-/") for field in fields]
    fixed = {"hour": single[:1], "day": single[:2], "week": [*single[:2], any(single[2:])]}
    if len(fields) == 1 or not all(fixed[spec.partition]):
        example = {"hour": "10 * * * *", "day": "0 3 * * *", "week": "0 3 * * 1"}[spec.partition]
        article = "an hour" if spec.partition == "hour" else f"a {spec.partition}"
        raise ValueError(
            f"schedule {spec.schedule!r} runs more than once {article}, but a night reads"
            f" {article} of logs; write for example {example!r}, or set source.partition"
        )


def values_are_no_rates(spec: PipelineSpec) -> None:
    """Refuse settings that are defined for probabilities only if the label is a value."""
    label = spec.label
    if label.kind == "binary":
        if label.distribution != type(label).model_fields["distribution"].default:
            raise ValueError(
                f"label.distribution {label.distribution!r} is the loss of value labels; set"
                " label.kind: value, or remove it"
            )
        return
    for key, is_set in (
        ("replay", spec.replay),
        ("policy", spec.policy),
        ("label.event_time", label.event_time),
        ("label.entire_space", label.entire_space),
        ("label.positive: known", label.positive == "known"),
        ("baseline.column", spec.baseline.column),
        ("train.sampling_correction", spec.train.sampling_correction),
        ("train.positive_weight", spec.train.positive_weight != 1),
        ("train.refit", spec.train.refit),
        (f"train.mode: {spec.train.mode}", spec.train.mode != "full"),
    ):
        if is_set:
            raise ValueError(
                f"{key} is defined for labels of 0 and 1, and label.kind is value; remove one"
                " of the two"
            )
    if spec.train.calibration in ("platt", "isotonic", "by_slice"):
        raise ValueError(
            f"train.calibration {spec.train.calibration!r} fits probabilities, but label.kind is "
            "value; use `rate` (mean prediction = mean value) or `none`"
        )
    for name, model in (("model", spec.model), ("baseline", spec.baseline)):
        if model.architecture in NOT_FOR_VALUES:
            raise ValueError(
                f"{name}.architecture {model.architecture!r} predicts probabilities only, but "
                "label.kind is value; use another one, such as dcn_v2"
            )
        if (
            model.architecture == "gradient_boosted_trees"
            and label.distribution == "zero_inflated_lognormal"
        ):
            raise ValueError(
                f"{name}.architecture 'gradient_boosted_trees' has one output, and"
                " zero_inflated_lognormal needs three; set label.distribution: tweedie"
            )


def replay_has_prices(spec: PipelineSpec) -> None:
    """Refuse a replay without prices, or with rows left out by `label.given`."""
    if spec.replay is None:
        return
    if not spec.columns.price:
        raise ValueError("replay needs columns.price, the column of the market price")
    if not spec.evaluate.keep_scores:
        raise ValueError("replay needs evaluate.keep_scores: true")
    if spec.replay.floor is not None and not spec.columns.competing:
        raise ValueError(
            "replay.floor needs columns.competing, the column of all competing bids: a logged "
            "price says nothing about bids below its floor"
        )
    if isinstance(spec.source, SimulatorSource) and spec.source.exploration is not None:
        raise ValueError(
            "replay needs ads that won by their bids, but source.exploration picks them at "
            "random; remove one of the two"
        )
    if spec.label.given and not spec.label.entire_space:
        raise ValueError(
            f"replay needs every impression, but label.given keeps only rows where"
            f" {spec.label.given} is 1; set label.entire_space: true, or remove replay"
        )


def policy_has_propensities(spec: PipelineSpec) -> None:
    """Refuse a policy without propensities, or with rows left out by `label.given`."""
    if spec.policy is None:
        return
    for role in ("propensity", "item"):
        if not getattr(spec.columns, role):
            raise ValueError(f"policy needs columns.{role}")
    if spec.label.given and not spec.label.entire_space:
        raise ValueError(
            f"policy needs every impression, but label.given keeps only rows where"
            f" {spec.label.given} is 1; set label.entire_space: true, or remove policy"
        )


def no_feature_reads_the_outcome(spec: PipelineSpec) -> None:
    """Refuse features that read a column that is known only after the impression."""
    label = spec.label
    outcomes = {
        label.column: "label.column",
        label.given: "label.given",
        label.event_time: "label.event_time",
    }
    for role in ("price", "value", "conversion", "competing", "propensity", "weight"):
        outcomes[getattr(spec.columns, role)] = f"columns.{role}"
    for column in getattr(spec.source, "outcomes", ()):
        outcomes.setdefault(column, "source.outcomes")
    legacy = spec.baseline.column
    if legacy and legacy in outcomes:
        raise ValueError(f"baseline.column is {legacy!r}, which is {outcomes[legacy]}")
    for name, feature in spec.features.items():
        for column in feature.sources(name):
            if legacy and column == legacy:
                raise ValueError(
                    f"feature {name!r} reads {column!r}, the score in baseline.column, which "
                    "disappears once this model serves; remove the feature"
                )
            if column in outcomes:
                raise ValueError(
                    f"feature {name!r} reads {column!r}, which is {outcomes[column]} and known"
                    " only after the impression → remove the feature (target_rate gives rates"
                    " of the past)"
                )


def position_is_training_only(spec: PipelineSpec) -> None:
    """Refuse a served feature that reads the position, which is not known when ads are ranked."""
    if spec.gates.features.position_as_input.stop is not None:
        for name in spec.position_inputs():
            raise ValueError(
                f"feature {name!r} reads columns.position {spec.columns.position!r}, which"
                " ranking decides → set training_only: true on it; if the slot is known"
                " beforehand, set gates.features.position_as_input: {warn: [null, 0]}"
            )


def delayed_label_has_a_time(spec: PipelineSpec) -> None:
    """Refuse label settings that need a column which the YAML does not name."""
    if spec.label.entire_space and not spec.label.given:
        raise ValueError(
            "label.entire_space is set, so label.given must name the column that the label"
            " is conditional on"
        )
    label = spec.label
    if label.attribution_days and not label.event_time and label.kind != "value":
        raise ValueError(
            "label.attribution_days is set, so label.event_time must name the column with the "
            "time of the event"
        )


def offsets_are_of_served_ids(spec: PipelineSpec) -> None:
    """Refuse `calibration_slices` with a feature that has no single id per row or is not served."""
    for name in spec.train.calibration_slices:
        feature = spec.features.get(name)
        if feature is None:
            raise ValueError(
                f"train.calibration_slices names {name!r}, and features has"
                f" {', '.join(spec.features) or 'none'}; add the feature, or name another"
            )
        if not feature.one_id or feature.training_only:
            why = "is training_only" if feature.training_only else f"is a {feature.transform}"
            raise ValueError(
                f"train.calibration_slices names {name!r}, which {why}: an offset needs one id per"
                " row that is known at serving, such as vocabulary, hash, hour or buckets"
            )


def young_days_can_be_learned(spec: PipelineSpec) -> None:
    """Refuse `young_days: elapsed_time` where its likelihood is not defined or no model uses it."""
    label = spec.label
    if label.young_days == "left_out":
        if label.delay_by:
            raise ValueError(
                f"label.delay_by {label.delay_by!r} is for label.young_days: elapsed_time; add it,"
                " or remove delay_by"
            )
        return
    for is_wrong, fault in (
        (not (label.event_time and label.attribution_days),
         "needs label.event_time and label.attribution_days: how long positives take"),
        (not spec.train.refit, "is learned by the model that serves: set train.refit: true"),
        (label.kind == "value", "is for label.kind: binary"),
        (label.entire_space, "is not for label.entire_space; predict the second step alone"),
        (isinstance(spec.source, EventsSource),
         "is not for kind: events, which joins a day once all its events are there"),
        (spec.train.positive_weight != 1, "needs train.positive_weight: 1"),
        (spec.model.architecture in NOT_FOR_VALUES, f"is not for {spec.model.architecture}"),
    ):  # fmt: skip
        if is_wrong:
            raise ValueError(f"label.young_days: elapsed_time {fault}")


def names_of(spec: PipelineSpec) -> Iterator[tuple[str, str]]:
    """Yield (place, name) for every feature name and every log column that a pipeline names."""
    for role, name in spec.columns.by_role.items():
        yield f"columns.{role}", name
    for key in ("column", "given", "event_time", "delay_by"):
        yield f"label.{key}", getattr(spec.label, key)
    if spec.baseline.column:
        yield "baseline.column", spec.baseline.column
    for name, feature in spec.features.items():
        yield "a feature", name
        for column in feature.sources(name):
            yield f"a column of features.{name}", column
    for name in spec.evaluate.slices:
        yield "a column of evaluate.slices", name


CHECKS: tuple[Callable[[PipelineSpec], None], ...] = (
    names_are_free,
    joined_label_is_final,
    window_counts_partitions,
    schedule_suits_partitions,
    arrival_suits_the_source,
    values_are_no_rates,
    replay_has_prices,
    policy_has_propensities,
    no_feature_reads_the_outcome,
    position_is_training_only,
    delayed_label_has_a_time,
    offsets_are_of_served_ids,
    young_days_can_be_learned,
)
"""All checks, in the order in which faults are reported."""


def faults_of(spec: PipelineSpec) -> Iterator[str]:
    """Yield the conflicts between the blocks of a pipeline, one message per failed check."""
    for check in CHECKS:
        try:
            check(spec)
        except ValueError as fault:
            yield str(fault)
