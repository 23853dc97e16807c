"""Associations: columns with the label or a user, flags with flags, times with times.

A stale or shuffled join leaves the distribution of each column unchanged, but not its associations.
"""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.config.pipeline import PipelineSpec
from nightbid.counts import counted
from nightbid.gates.day_profiles import DayProfile, DayProfiles
from nightbid.gates.drift import SIGMAS, beyond_chance, order_auc, transfer_auc
from nightbid.gates.measurements import Measurements
from nightbid.schema import RESERVED
from nightbid.time_parsing import as_time

LEAST_POSITIVES = 50
LEAST_KNOWN = 20
"""Minimum number of values for the finding that a column is known only after the event."""
LEAST_COMMON = 30
"""Minimum number of users or items in common between two days to compare their attributes."""
STAYS = 0.8
"""Minimum usual agreement of an attribute; below it, the column changes from day to day anyway."""


def measure(
    measurements: Measurements, days: DayProfiles, day: DayProfile, spec: PipelineSpec
) -> None:
    """Measure the associations of one day."""
    _contradictions(measurements, days, day)
    _outcomes(measurements, day, spec)
    _associations(measurements, days, day, spec)
    _attributes(measurements, days, day, spec)
    _concentration(measurements, days, day, spec)


def _contradictions(measurements: Measurements, days: DayProfiles, day: DayProfile) -> None:
    rows = max(day.profile.rows, 1)
    for name, count in day.profile.contradictions.items():
        others = [
            other.profile.contradictions[name] / max(other.profile.rows, 1)
            for other in days.others(day)
            if name in other.profile.contradictions
        ]
        if not others:
            continue
        usual = float(np.median(others))
        # A pair that usually disagrees is not a rule.
        if usual > 0.001:
            continue
        error = math.sqrt(max(usual, 1 / rows) / rows)
        excess = beyond_chance(count / rows - usual, 0.0, error)
        measurements.add(
            "contradictions",
            max(excess - unproven(days, day, name), 0.0),
            subject=name,
            part=day.name,
            note=f"{counted(count, 'row')}, usually {usual:.3%}",
        )


def unproven(days: DayProfiles, day: DayProfile, name: str) -> float:
    """Get the share of a day's rows that may break a rule of flags because it is not yet proven.

    If other days have n rows with the first flag, k of them without the second, four standard
    errors allow a share of (k + 16) / (n + 16) without it.

    Args:
        days: All known days.
        day: Day that is judged.
        name: Name of the rule, `first without second`; 0 is returned for times (`first after
            second`).
    """
    first, word, _ = name.partition(" without ")
    if not word:
        return 0.0
    flagged, broken = 0.0, 0
    for other in days.others(day):
        column = other.profile.columns.get(first)
        if column is not None and name in other.profile.contradictions:
            flagged += (column.mean or 0.0) * column.values
            broken += other.profile.contradictions[name]
    flag_column = day.profile.columns[first]
    share = (flag_column.mean or 0.0) * flag_column.values / max(day.profile.rows, 1)
    return share * (broken + SIGMAS**2) / (flagged + SIGMAS**2)


def _outcomes(measurements: Measurements, day: DayProfile, spec: PipelineSpec) -> None:
    """Find outcomes among the columns that features read, without comparing days.

    A column that has values only where the label is 1 was filled in after the event.
    """
    label = day.profile.label
    for name in _read_by_features(spec):
        column = day.profile.columns.get(name)
        if column is None or not column.rows:
            continue
        known = column.rows - column.nulls
        if column.nulls and known >= LEAST_KNOWN and 0 < label.positives < label.rows:
            rate = label.positives / label.rows
            share = (label.positives - column.null_positives) / known
            excess = beyond_chance(share - rate, 0.0, math.sqrt(rate * (1 - rate) / known))
            measurements.add(
                "known_if_positive",
                max(excess, 0.0) / (1 - rate),
                subject=name,
                part=day.name,
                note=f"known in {counted(known, 'row')}, {share:.1%} of them with label 1; of"
                f" all rows {rate:.2%}",
            )


def after_impression(
    measurements: Measurements, sample: pa.Table, day: DayProfile, spec: PipelineSpec
) -> None:
    """Find times after the impression among the columns that features read.

    Times that many rows share (the end of a campaign) are planned times, not outcomes.

    Args:
        measurements: Measurements to add to, one per time column.
        sample: Raw rows of a day.
        day: Day that the rows are from.
        spec: Pipeline with the roles of columns.
    """
    impression = sample[spec.columns.time]
    for name in _read_by_features(spec):
        if name not in sample.column_names or not pa.types.is_timestamp(sample[name].type):
            continue
        times = as_time(sample[name])
        known = len(times) - times.null_count
        if known < LEAST_KNOWN:
            continue
        later = pc.sum(pc.greater(times, as_time(impression))).as_py() or 0
        is_event = pc.count_distinct(times).as_py() > known / 2
        measurements.add(
            "after_impression",
            later / known if is_event else 0.0,
            subject=name,
            part=day.name,
            note=f"{later:,} of {counted(known, 'time')} after the impression",
        )


def _read_by_features(spec: PipelineSpec) -> list[str]:
    own = {spec.columns.key, spec.columns.time, spec.label.column, *RESERVED}
    read = {column for name, feature in spec.features.items() for column in feature.sources(name)}
    return sorted(read - own)


def _associations(
    measurements: Measurements, days: DayProfiles, day: DayProfile, spec: PipelineSpec
) -> None:
    if day.profile.label.positives < LEAST_POSITIVES or len(days.all) < 3:
        return
    label = spec.label
    # Columns that define the label are expected to predict it.
    by_right = {label.column, label.event_time, label.given, spec.columns.key, *RESERVED}
    for name, column in day.profile.columns.items():
        if name in by_right or column.kind == "time":
            continue
        association = _auc(days, day, name)
        if association is None:
            continue
        others = [auc for other in days.others(day) if (auc := _auc(days, other, name))]
        if len(others) < 2:
            continue
        for family, at, sign in (("auc_gain", 0, 1), ("auc_gain", 1, 1), ("auc_loss", 0, -1)):
            usual = float(np.median([other[at] for other in others]))
            change = sign * beyond_chance(association[at] - usual, 0.0, association[2])
            measurements.add(
                family,
                max(change, 0.0),
                subject=name,
                part=day.name if at == 0 else f"{day.name}, its order",
                note=f"AUC of this column alone {association[at]:.3f}, usually {usual:.3f}",
            )


def _auc(days: DayProfiles, day: DayProfile, name: str) -> tuple[float, float, float] | None:
    """Get the AUC by the label rates of other days, by the order of values, and the error."""
    key = (day.date, name)
    if key not in days.auc:
        both = days.against_others(day, name)
        if both is None or int(both.new_positives.sum()) < LEAST_POSITIVES:
            days.auc[key] = None
        else:
            value, error = transfer_auc(both)
            days.auc[key] = (value, order_auc(both), error)
    return days.auc[key]


def _attributes(
    measurements: Measurements, days: DayProfiles, day: DayProfile, spec: PipelineSpec
) -> None:
    """Compare the attributes of sampled users and items with those on other days."""
    for entity in filter(None, (spec.columns.user, spec.columns.item)):
        attributes = day.profile.attributes.get(entity)
        for name in attributes.columns if attributes else ():
            now = days.agreement(day, entity, name)
            before = [
                agreement[0]
                for other in days.window
                if other.date != day.date
                and (agreement := days.agreement(other, entity, name)) is not None
            ]
            if now is None or now[1] < LEAST_COMMON or len(before) < 2:
                continue
            usual = float(np.median(before))
            if usual < STAYS:
                continue
            share, common = now
            error = math.sqrt(max(usual * (1 - usual), 1 / common) / common)
            measurements.add(
                "attribute_loss",
                max(beyond_chance(usual - share, 0.0, error), 0.0),
                subject=name,
                part=day.name if entity == spec.columns.user else f"{day.name}, by {entity}",
                note=f"as on other days for {share:.0%} of {counted(common, 'sampled value')} of"
                f" {entity},"
                f" usually {usual:.0%}",
            )


def _concentration(
    measurements: Measurements, days: DayProfiles, day: DayProfile, spec: PipelineSpec
) -> None:
    """Find a single user with too large a share of the rows or of the positives."""
    user = spec.columns.user
    both = days.against_others(day, user)
    if both is None:
        return
    for kind, new, old in (
        ("rows", both.new, both.old),
        ("positives", both.new_positives, both.old_positives),
    ):
        total, before = int(new[:-1].sum()), int(old[:-1].sum())
        if total < LEAST_POSITIVES or not before:
            continue
        usual = old[:-1] / before
        error = np.sqrt(np.maximum(usual, 1 / total) * (1 / total + 1 / before))
        excess = np.maximum(new[:-1] / total - usual - SIGMAS * error, 0.0)
        at = int(excess.argmax())
        measurements.add(
            "concentration",
            float(excess[at]),
            subject=user,
            part=f"{day.name}, {kind}",
            note=f"one group of values has {new[at] / total:.1%} of the {kind},"
            f" usually {usual[at]:.1%}",
        )
