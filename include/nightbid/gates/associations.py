"""What belongs together: columns with the label, flags with flags, times with times.

A stale or shuffled join leaves every column's own distribution as it was; these do not.
"""

from __future__ import annotations

import math

import numpy as np

from nightbid.config.pipeline import PipelineSpec
from nightbid.gates.compare import beyond_chance, order_auc, transfer_auc
from nightbid.gates.days import Day, Days
from nightbid.gates.facts import Facts
from nightbid.schema import RESERVED

LEAST_POSITIVES = 50


def measure(facts: Facts, days: Days, day: Day, spec: PipelineSpec) -> None:
    """Collect the figures of one day."""
    _contradictions(facts, days, day)
    _associations(facts, days, day, spec)


def _contradictions(facts: Facts, days: Days, day: Day) -> None:
    rows = max(day.profile.rows, 1)
    for name, count in day.profile.contradictions.items():
        others = [
            each.profile.contradictions[name] / max(each.profile.rows, 1)
            for each in days.others(day)
            if name in each.profile.contradictions
        ]
        if not others:
            continue
        usual = float(np.median(others))
        # A pair that usually goes its own ways is no rule that could be broken.
        if usual > 0.001:
            continue
        error = math.sqrt(max(usual, 1 / rows) / rows)
        facts.add(
            "contradictions",
            max(beyond_chance(count / rows - usual, 0.0, error), 0.0),
            subject=name,
            part=day.name,
            note=f"{count:,} rows, usually {usual:.3%}",
        )


def _associations(facts: Facts, days: Days, day: Day, spec: PipelineSpec) -> None:
    if day.profile.label.positives < LEAST_POSITIVES or len(days.all) < 3:
        return
    label = spec.label
    # What defines the label predicts it by right.
    by_right = {label.column, label.event_time, label.given, spec.columns.key, *RESERVED}
    for name, column in day.profile.columns.items():
        if name in by_right or column.kind == "time":
            continue
        mine = _auc(days, day, name)
        if mine is None:
            continue
        others = [found for each in days.others(day) if (found := _auc(days, each, name))]
        if len(others) < 2:
            continue
        for family, at, sign in (("auc_gain", 0, 1), ("auc_gain", 1, 1), ("auc_loss", 0, -1)):
            usual = float(np.median([each[at] for each in others]))
            change = sign * beyond_chance(mine[at] - usual, 0.0, mine[2])
            facts.add(
                family,
                max(change, 0.0),
                subject=name,
                part=day.name if at == 0 else f"{day.name}, its order",
                note=f"AUC of this column alone {mine[at]:.3f}, usually {usual:.3f}",
            )


def _auc(days: Days, day: Day, name: str) -> tuple[float, float, float] | None:
    """AUC by the other days' label rates, by the values' order, and the standard error."""
    key = (day.date, name)
    if key not in days.auc:
        both = days.against_others(day, name)
        if both is None or int(both.new_positives.sum()) < LEAST_POSITIVES:
            days.auc[key] = None
        else:
            value, error = transfer_auc(both)
            days.auc[key] = (value, order_auc(both), error)
    return days.auc[key]
