"""Checks of the single columns of a day: nulls, ranges, new values, drift."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nightbid.config.pipeline import PipelineSpec
from nightbid.counts import counted
from nightbid.gates.day_profiles import DayProfile, DayProfiles
from nightbid.gates.drift import SIGMAS, beyond_chance, share_error
from nightbid.gates.measurements import Measurements
from nightbid.profile.bins import number_edges
from nightbid.profile.column import ColumnProfile
from nightbid.schema import KEY, LABEL, RESERVED

FEW = 200
"""Maximum number of distinct values of a column that is treated as a set of values."""
LEAST_DAYS = 3
"""Minimum number of other days with a value for it to count as lost."""
RARELY = 1e-6
"""Probability below which an event is not attributed to chance."""
FAR = 10.0
"""A number beyond this multiple of the range of all other days is out of range."""


def measure(
    measurements: Measurements, days: DayProfiles, day: DayProfile, spec: PipelineSpec
) -> None:
    """Measure each column of one day against the other days."""
    if not days.others(day):
        return
    for name, column in day.profile.columns.items():
        others = [
            profile
            for other in days.others(day)
            if (profile := other.profile.columns.get(name)) is not None
        ]
        if name in RESERVED and name != KEY:
            continue
        _absence(measurements, name, day, column, others)
        if name == KEY or not others:
            continue
        _extremes(measurements, name, day, column, others)
        churns = name in spec.columns.turnover or bool(days.moves_on(day, name))
        _sets(measurements, name, day, column, others, churns=churns)
        if not churns:
            _lost(measurements, name, day, column, others)
        if column.kind == "time" or name == spec.columns.key:
            continue
        moved = days.distances(day, name)
        if moved is not None and name != spec.label.column:
            usual = days.usual_distances(day, name)
            note = _moved(name, column, others)
            for family, value, expected in (
                ("psi", moved.psi, usual.psi),
                ("linf", moved.linf, usual.linf),
            ):
                # The shares of items change as a policy learns, so they are not judged.
                if family == "psi" and name in (spec.columns.item, spec.columns.candidates):
                    continue
                excess = max(value - expected, 0.0)
                measurements.add(family, excess, subject=name, part=day.name, note=note)


def _absence(
    measurements: Measurements,
    name: str,
    day: DayProfile,
    column: ColumnProfile,
    others: list[ColumnProfile],
) -> None:
    rows = max(column.rows, 1)
    for family, count in _absent(column).items():
        shares = [_absent(other)[family] / max(other.rows, 1) for other in others]
        usual = float(np.median(shares)) if shares else 0.0
        can_be = family == "null_excess" or (family == "nan_excess" and _is_float(column))
        if count == 0 and usual == 0 and not can_be:
            continue
        share = count / rows
        error = share_error(share, usual, rows)
        measurements.add(
            family,
            max(beyond_chance(share - usual, 0.0, error), 0.0),
            subject=name,
            part=day.name,
            note=f"{count:,} of {counted(column.rows, 'row')}, usually {usual:.2%}",
        )
        if family == "null_excess" and usual > 0:
            measurements.add(
                "null_drop",
                -min(beyond_chance(share - usual, 0.0, error), 0.0),
                subject=name,
                part=day.name,
                note=f"{share:.2%}, usually {usual:.2%}",
            )


def _is_float(column: ColumnProfile) -> bool:
    return any(name in ("halffloat", "float", "double") for name in column.types)


def _absent(column: ColumnProfile) -> dict[str, int]:
    return {
        "null_excess": column.nulls,
        "nan_excess": column.nan + column.infinite,
        "blank_excess": column.blank,
    }


def _extremes(
    measurements: Measurements,
    name: str,
    day: DayProfile,
    column: ColumnProfile,
    others: list[ColumnProfile],
) -> None:
    bounds = far(column, others)
    if bounds is None or not column.values:
        return
    floor, ceiling = bounds
    bottom, top = number_edges(column.bins.keys)
    outside = int(column.bins.counts[(top < floor) | (bottom > ceiling)].sum())
    low, high = _reach(others)
    note = f"{counted(outside, 'value')}, from {column.minimum:g} to {column.maximum:g};"
    measurements.add(
        "out_of_range",
        beyond_chance(outside / column.values, 0.0, 1 / column.values),
        subject=name,
        part=day.name,
        note=f"{note} other days {low:g} to {high:g}",
    )


def far(column: ColumnProfile, others: Sequence[ColumnProfile]) -> tuple[float, float] | None:
    """Get the bounds outside of which a number is far out of all other days' range.

    None if the column is not numeric.
    """
    if column.kind != "number" or not any(other.minimum is not None for other in others):
        return None
    low, high = _reach(others)
    # Ten times the range in both directions, but a column that was never negative must stay so.
    floor = low - (FAR - 1) * (high - low) if low < 0 else 0.0
    ceiling = max(high * FAR, high + (FAR - 1) * (high - low)) if high > 0 else high
    return floor, ceiling


def _reach(others: Sequence[ColumnProfile]) -> tuple[float, float]:
    lows = [other.minimum for other in others if other.minimum is not None]
    highs = [other.maximum for other in others if other.maximum is not None]
    return min(lows), max(highs)


@dataclass(frozen=True)
class KnownValues:
    """The known values of a column with few distinct values."""

    values: frozenset[object]
    """Values that other days have."""
    usual: float
    """Usual share of a day's values that no other day has, since dates, ages and campaigns change
    daily."""


def known_values(column: ColumnProfile, filled: Sequence[ColumnProfile]) -> KnownValues | None:
    """Collect the values of other days; None if they are too many to be a set."""
    everyone = [column, *filled]
    if column.kind not in ("text", "number") or not all(
        profile.sample.complete for profile in everyone
    ):
        return None
    if float(np.median([profile.distinct for profile in filled])) > FEW:
        return None
    shares = [
        sum(_new(profile, [other for other in everyone if other is not profile]).values())
        / profile.values
        for profile in filled
    ]
    known = frozenset(value for profile in filled for value in profile.sample.values)
    return KnownValues(known, float(np.median(shares)) if shares[1:] else 0.0)


def _sets(
    measurements: Measurements,
    name: str,
    day: DayProfile,
    column: ColumnProfile,
    others: list[ColumnProfile],
    *,
    churns: bool,
) -> None:
    filled = [other for other in others if other.values]
    if not column.values or not filled or column.kind not in ("text", "number"):
        return
    counts = [profile.distinct for profile in filled]
    usual = float(np.median(counts))
    measurements.add(
        "constant_columns",
        float(
            column.distinct <= 1
            and column.rows > 100
            and usual > 1
            and _alike_by_chance(column, filled) < RARELY
        ),
        subject=name,
        part=day.name,
        note=counted(round(column.distinct), "distinct value"),
    )
    # The estimates of both sides have an error of 3% each; fewer rows have fewer values.
    if usual > FEW:
        thinner = min(column.values / np.median([profile.values for profile in filled]), 1.0)
        error = 0.05 + 1 / math.sqrt(usual)
        measurements.add(
            "distinct_vs_usual",
            beyond_chance(
                column.distinct / (usual * max(thinner, 0.01) ** 0.5), 1.0, error / SIGMAS
            ),
            subject=name,
            part=day.name,
            note=f"{counted(round(column.distinct), 'distinct value')}, usually {usual:,.0f}",
        )
        return
    # Users, items and ages change daily, however few there are, so they are not sets of values.
    known = None if churns else known_values(column, filled)
    if known is None:
        return
    new = _new(column, filled)
    shown = ", ".join(repr(value) for value in sorted(new, key=new.__getitem__, reverse=True)[:3])
    share = sum(new.values()) / column.values
    error = share_error(share, known.usual, column.values)
    measurements.add(
        "new_values",
        max(beyond_chance(share - known.usual, 0.0, error), 0.0),
        subject=name,
        part=day.name,
        note=f"{len(new)} new: {shown}" if new else "",
    )


def _alike_by_chance(column: ColumnProfile, others: Sequence[ColumnProfile]) -> float:
    """Get the probability that all values of a day are the most frequent one of other days."""
    shares = [other.bins.counts.max() / other.values for other in others if len(other.bins.counts)]
    return float(np.median(shares) ** column.values) if shares else 0.0


def _lost(
    measurements: Measurements,
    name: str,
    day: DayProfile,
    column: ColumnProfile,
    others: list[ColumnProfile],
) -> None:
    """Add up the shares of values that all other days have and this one does not.

    The largest such sum of the other days is subtracted: ages and counters of a few busy users
    change each day, and their rows are not independent.
    """
    everyone = [column, *others]
    if len(others) < LEAST_DAYS or not column.values or not column.sample.values:
        return
    if not all(profile.sample.complete and profile.values for profile in everyone):
        return
    if column.kind == "number" and _moved_on(column, others):
        return
    due = _gone(column, others)
    usual = max(
        sum(_gone(profile, [other for other in everyone if other is not profile]).values())
        for profile in others
    )
    shown = ", ".join(repr(key) for key in sorted(due, key=due.__getitem__, reverse=True)[:3])
    measurements.add(
        "lost_values",
        max(sum(due.values()) - usual, 0.0),
        subject=name,
        part=day.name,
        note=f"{len(due)} gone: {shown}" if due else "",
    )


def _gone(column: ColumnProfile, others: Sequence[ColumnProfile]) -> dict[object, float]:
    """Map each value that all others have and this day lacks beyond chance to its lowest share."""
    present = set(column.sample.values)
    least: dict[object, float] = {}
    for at, other in enumerate(others):
        pairs = zip(other.sample.values, other.sample.counts.tolist(), strict=True)
        shares = {value: count / other.values for value, count in pairs if value not in present}
        if at == 0:
            least = shares
        least = {key: min(low, shares[key]) for key, low in least.items() if key in shares}
    # The probability that a value with SIGMAS² expected rows has none is one in ten million.
    return {key: low for key, low in least.items() if low * column.values >= SIGMAS**2}


def _moved_on(column: ColumnProfile, others: Sequence[ColumnProfile]) -> bool:
    """Whether both ends of the range have moved in the same direction, as for ages and counters.

    The values of such columns are not a set; drift and range checks judge them instead.
    """
    assert column.minimum is not None
    assert column.maximum is not None
    low, high = _reach(others)
    return (column.minimum > low and column.maximum > high) or (
        column.minimum < low and column.maximum < high
    )


def _new(column: ColumnProfile, others: Sequence[ColumnProfile]) -> dict[object, int]:
    """Map each value of a column that other days do not have to its number of rows."""
    known = {value for other in others for value in other.sample.values}
    pairs = zip(column.sample.values, column.sample.counts.tolist(), strict=True)
    return {value: count for value, count in pairs if value not in known}


def _moved(name: str, column: ColumnProfile, others: list[ColumnProfile]) -> str:
    """Describe a shifted distribution in a short text."""
    if column.kind == "number" and column.mean is not None:
        means = [other.mean for other in others if other.mean is not None]
        return f"mean {column.mean:.4g}, usually {np.median(means):.4g}" if means else ""
    if column.kind == "text" and column.top(1):
        value, count = column.top(1)[0]
        return f"most frequent {value!r} in {count / max(column.rows, 1):.1%} of rows"
    return counted(round(column.distinct), "distinct value") if name != LABEL else ""
