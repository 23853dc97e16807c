"""Raw gate: compares each day of the window with what is usual, all other known days."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import betabinom, chi2, norm

from nightbid.config.pipeline import PipelineSpec
from nightbid.counts import counted
from nightbid.gates import associations, column_checks, joined_events, row_expectations
from nightbid.gates.day_profiles import DayProfile, DayProfiles
from nightbid.gates.drift import SIGMAS, beyond_chance
from nightbid.gates.gate import gate
from nightbid.gates.measurements import Measurements
from nightbid.gates.rolling_days import in_rolling_days
from nightbid.night.task import StageTask
from nightbid.profile.bins import Floats, Ints

WIDTHS = (r"u?int\d|half|float|double|decimal", r"(large_)?string|string_view", r"timestamp|date")
"""Patterns of types that hold the same values with different widths."""
HANDFUL = 1000
ONE_SIDED = norm.sf(SIGMAS)
"""Probability of a normal value beyond `SIGMAS`."""
LATEST_ZONE_HOURS = 14
"""Maximum offset of a time zone ahead of UTC, in hours; later times cannot be explained by a zone.
"""
LOCAL_DAYS = 0.02
"""Share of rows outside their day beyond which the days are probably those of another zone."""


@gate("raw")
def measure(task: StageTask) -> Measurements:
    """Measure all days of the window, and single rows of the newest day."""
    days = DayProfiles.of(task)
    if task.spec.partition == "hour":
        days = in_rolling_days(days)
    measurements = measure_days(days, task.spec)
    folder = task.inputs["sample"].part("rows/") / "rows"
    for day in days.window:
        paths = [folder / f"dt={name}.parquet" for name in day.partitions or (day.name,)]
        tables = [pq.read_table(path, partitioning=None) for path in paths if path.exists()]
        if tables:
            rows = pa.concat_tables(tables, promote_options="permissive")
            is_whole = len(tables) == len(paths)
            row_expectations.measure(measurements, rows, days, day, task.spec, is_whole=is_whole)
    return measurements


def measure_days(days: DayProfiles, spec: PipelineSpec) -> Measurements:
    """Measure days that have been loaded."""
    measurements = Measurements()
    days.ids = frozenset(_ids(spec))
    missing = [day.isoformat() for day in days.missing]
    newest = max(set(days.expected) - set(days.missing), default=None)
    measurements.add(
        "missing_days",
        len(missing),
        note=", ".join(missing) or f"newest day of logs is {newest}",
    )
    if not days.all:
        measurements.skip("all hours: fewer than 24 in a row are known")
    elif len(days.all) < 2:
        measurements.skip(
            "everything that needs another day to compare with: only one day is known"
        )
    for day in days.window:
        measurements.add("rows", day.profile.rows, part=day.name)
        if day.profile.rows == 0:
            continue
        _schema(measurements, days, day, spec)
        _volume(measurements, days, day)
        _clock(measurements, days, day, getattr(spec.source, "time_zone", "UTC"))
        _label(measurements, days, day)
        joined_events.measure(measurements, days, day)
        column_checks.measure(measurements, days, day, spec)
        associations.measure(measurements, days, day, spec)
    return measurements


def _ids(spec: PipelineSpec) -> Iterator[str]:
    """Yield the columns whose numbers are ids: users, items, and columns that features look up."""
    yield from filter(None, (spec.columns.user, spec.columns.item))
    for name, feature in spec.features.items():
        if feature.reads == "id":
            yield from feature.sources(name)


def _schema(
    measurements: Measurements, days: DayProfiles, day: DayProfile, spec: PipelineSpec
) -> None:
    roles = spec.columns
    required = {roles.key, roles.time, roles.user, spec.label.column}
    required |= {
        name
        for name in (
            roles.item,
            roles.position,
            roles.weight,
            spec.label.given,
            spec.label.event_time,
        )
        if name
    }
    others = [set(other.profile.columns) for other in days.others(day)]
    # A column that most other days have is part of the schema, even if it is not declared.
    counts = {
        name: sum(name in other for other in others) for columns in others for name in columns
    }
    usual = {name for name, count in counts.items() if 2 * count > len(others)}
    lost = sorted((required | usual) - set(day.profile.columns))
    measurements.add("missing_columns", len(lost), part=day.name, note=", ".join(lost))
    changed: list[str] = []
    widened: list[str] = []
    for name, column in day.profile.columns.items():
        before = [
            other.profile.columns[name].types
            for other in days.others(day)
            if name in other.profile.columns and other.profile.columns[name].kind != "empty"
        ]
        if before and column.kind != "empty":
            common = max(set(before), key=before.count)
            if common != column.types:
                group = widened if _of_one_family(common, column.types) else changed
                group.append(f"{name} is {'/'.join(column.types)}, was {'/'.join(common)}")
    measurements.add("changed_types", len(changed), part=day.name, note="; ".join(changed))
    measurements.add("widened_types", len(widened), part=day.name, note="; ".join(widened))


def _of_one_family(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether types differ only in width, such as 32 and 64 bits, or integer and float."""
    families = {
        next((pattern for pattern in WIDTHS if re.match(pattern, name)), name)
        for name in (*one, *other)
    }
    return len(families) == 1


def _volume(measurements: Measurements, days: DayProfiles, day: DayProfile) -> None:
    rows = day.profile.rows
    usual = days.usual_of_weekday(day, lambda other: other.profile.rows)
    if usual:
        measurements.add(
            "rows_vs_usual",
            beyond_chance(rows / usual, 1.0, math.sqrt(1 / rows + 1 / usual)),
            part=day.name,
            note=f"{counted(rows, 'row')}, usually {usual:,.0f}: {rows / usual:.2%}, minus chance",
        )
    share = day.profile.duplicate_share
    if share is not None:
        measurements.add(
            "duplicates", share, part=day.name, note=f"share of {counted(rows, 'row')}"
        )
    positives = day.figures.get("positives", 0.0)
    if day.figures.get("repeated") and positives:
        lost = day.figures.get("repeated_positives", 0.0)
        measurements.add(
            "repeated_positives",
            lost / positives,
            part=day.name,
            note=f"{lost:,.0f} of {counted(round(positives), 'row')} with label 1 and the key of an"
            " earlier row with label 0, which is kept",
        )
    read = day.figures.get("read", float(rows))
    aside = day.figures.get("quarantined", 0.0)
    measurements.add(
        "quarantined",
        aside / read if read else None,
        part=day.name,
        note=f"{aside:,.0f} of {counted(round(read), 'row')} could not be parsed",
    )
    if aside and positives:
        lost, expected = day.figures.get("quarantined_positives", 0.0), aside / read
        error = math.sqrt(max(expected * (1 - expected), 1 / positives) / positives)
        measurements.add(
            "quarantined_positives",
            max(beyond_chance(lost / positives - expected, 0.0, error), 0.0),
            part=day.name,
            note=f"{lost:,.0f} of {counted(round(positives), 'row')} with label 1, or with a label"
            " that cannot be read, could not be parsed",
        )


def _uneven_hours(day: date, zone: str) -> list[int]:
    """List the hours that the clock of a zone skips or repeats on a day."""
    if zone == "UTC":
        return []
    start = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).astimezone(UTC)
    # Check every half hour, because a clock may change by less than an hour.
    steps = [start + timedelta(minutes=30 * at) for at in range(52)]
    local = [step.astimezone(ZoneInfo(zone)) for step in steps]
    shown = Counter(time.hour for time in local if time.date() == day)
    return [hour for hour in range(24) if shown[hour] != 2]


def _clock(measurements: Measurements, days: DayProfiles, day: DayProfile, zone: str) -> None:
    rows = day.profile.rows
    others = days.others(day)
    share = day.outside / rows
    usual_outside = days.usual(day, lambda other: other.outside / max(other.profile.rows, 1))
    if usual_outside is not None:
        error = math.sqrt(max(usual_outside * (1 - usual_outside), 1 / rows) / rows)
        measurements.add(
            "outside_day",
            beyond_chance(share - usual_outside, 0.0, error),
            part=day.name,
            note=f"{counted(day.outside, 'row')} with a time in another {day.unit}"
            + (
                f", usually {usual_outside:.1%}: source.time_zone names the clock of the days"
                if usual_outside > LOCAL_DAYS
                else ""
            ),
        )
    last = day.end + LATEST_ZONE_HOURS
    future = sum(count for hour, (count, _) in day.profile.rows_by_hour.items() if hour >= last)
    measurements.add("future_rows", future, part=day.name)
    if not others:
        return
    shares = np.median([other.hours[0] / max(other.hours[0].sum(), 1) for other in others], axis=0)
    uneven = _uneven_hours(day.date, zone) if day.unit == "day" else []
    shares[uneven] = 0.0
    shares = shares / max(shares.sum(), 1e-12)
    seen = day.hours[0].copy()
    seen[uneven] = 0
    expected = shares * seen.sum()
    empty = [hour for hour in range(24) if expected[hour] >= 20 and seen[hour] == 0]
    measurements.add(
        "missing_hours", len(empty), part=day.name, note=" ".join(f"{hour:02d}h" for hour in empty)
    )
    judged = expected >= 20
    if not judged.any():
        return
    # The noise of the other days' median is small compared with this day's.
    noise = SIGMAS / np.sqrt(np.maximum(expected, 1))
    ratio = np.where(judged, seen / np.maximum(expected, 1e-9), 1.0)
    low = np.where(judged, np.minimum(ratio + noise, 1.0), 1.0)
    high = np.where(judged, np.maximum(ratio - noise, 1.0), 1.0)
    for family, table, at in (
        ("hour_low", low, int(low.argmin())),
        ("hour_high", high, int(high.argmax())),
    ):
        measurements.add(
            family,
            table[at],
            part=day.name,
            note=f"{at:02d}h: {counted(int(seen[at]), 'row')}, usually {expected[at]:,.0f}",
        )

    def distance(any_day: DayProfile) -> float:
        counts = any_day.hours[0].copy()
        counts[uneven] = 0
        return float(np.abs(counts / max(counts.sum(), 1) - shares).sum() / 2)

    apart = distance(day) - (days.usual(day, distance) or 0.0)
    measurements.add(
        "clock_shift",
        max(apart - _hours_by_chance(shares, int(seen.sum()), len(others)), 0.0),
        part=day.name,
        note="share of the rows that sits in another hour than usual",
    )


def _hours_by_chance(shares: Floats, rows: int, others: int) -> float:
    """Compute the largest excess distance of a clean day from the usual hours, over other days'.

    The other days are closer because they are part of what is usual; the rest is four standard
    errors.

    Args:
        shares: [24] usual share of each hour.
        rows: Number of rows of the day.
        others: Number of other days.
    """
    error = np.sqrt(shares * (1 - shares) / max(rows, 1))
    nearer = math.sqrt(1 + math.pi / 2 / others) - math.sqrt(1 - 1 / others)
    mean = float(error.sum()) * math.sqrt(2 / math.pi) / 2
    spread = math.sqrt((1 - 2 / math.pi) * float((error**2).sum())) / 2
    return mean * nearer + SIGMAS * spread


def _label(measurements: Measurements, days: DayProfiles, day: DayProfile) -> None:
    rate = day.profile.label_rate
    if rate is None:
        return
    positives, rows = day.profile.label.positives, day.profile.label.rows
    usual = days.usual(day, lambda other: other.profile.label_rate)
    if usual:
        error = math.sqrt(1 / max(usual * rows, 1))
        measurements.add(
            "label_rate_vs_usual",
            beyond_chance(rate / usual, 1.0, error),
            part=day.name,
            note=f"{rate:.4f} ({counted(positives, 'positive')}), usually {usual:.4f}:"
            f" {rate / usual:.2%}, minus chance",
        )
    _label_evening(measurements, days, day)
    _label_hours(measurements, day)


def _label_hours(measurements: Measurements, day: DayProfile) -> None:
    """Find the hour, or the last hours of the day, with the fewest positives for its rows.

    The statistic is the largest label rate that is compatible with so few positives, over the rate
    of the other hours: the upper end of the exact interval of a Poisson count (Garwood, 1936). With
    no positives where 36 were expected, it is 0.29.
    """
    seen, marked = day.hours
    spans = [(hour, hour + 1) for hour in range(24)] + [(24 - n, 24) for n in range(2, 7)]
    first, last = np.array(spans).T
    rows_before, positives_before = (np.append(0, counts.cumsum()) for counts in (seen, marked))
    rows, positives = (
        rows_before[last] - rows_before[first],
        positives_before[last] - positives_before[first],
    )
    due = rows * (marked.sum() - positives) / np.maximum(seen.sum() - rows, 1)
    if not (judged := due >= 10).any():
        return
    most = chi2.isf(ONE_SIDED, 2 * (positives + 1)) / 2
    ratio = np.where(judged, most / np.maximum(due, 1), np.inf)
    at = int(ratio.argmin())
    measurements.add(
        "label_hour_low",
        min(float(ratio[at]), 1.0),
        part=day.name,
        note=f"{first[at]:02d}h to {last[at]:02d}h: {counted(int(positives[at]), 'positive')},"
        f" {due[at]:,.0f} at the rate of the other hours",
    )


def _label_evening(measurements: Measurements, days: DayProfiles, day: DayProfile) -> None:
    """Compare the label rate of the last six hours, relative to the others, with the usual ratio.

    Chance is derived from the expected positives, not from the observed ones, so that a day without
    any evening positives is not excused.
    """
    seen, marked = _evening_counts([day])
    usual_seen, usual_marked = _evening_counts(days.others(day))
    if not (seen.all() and usual_seen.all() and marked.sum() and usual_marked.sum()):
        return
    smoothed = (usual_marked + 0.5) / usual_seen
    center = smoothed[1] / smoothed[0]
    due = marked.sum() * seen * smoothed / (seen * smoothed).sum()
    ratio = (marked[1] + 0.5) / (due[1] + 0.5) / ((marked[0] + 0.5) / (due[0] + 0.5))
    error = math.sqrt((1 / (due + 0.5)).sum() + (1 / (usual_marked + 0.5)).sum())
    usual = usual_marked * seen / usual_seen * (usual_seen.sum() / seen.sum()) + 0.5
    is_chance = _is_chance(int(marked[1]), int(marked.sum()), float(usual[1]), float(usual[0]))
    measurements.add(
        "label_evening",
        1.0 if is_chance else math.exp(beyond_chance(math.log(ratio), 0.0, error)),
        part=day.name,
        note=f"{marked[1]:,} of {counted(int(marked.sum()), 'positive')} after 18h, usually"
        f" {due[1]:,.1f}; label rate there over that before, usually {center:.2f}",
    )


def _is_chance(positives: int, draws: int, usual: float, others: float) -> bool:
    """Whether few positives can be so uneven by chance; the normal approximation fails for them.

    Args:
        positives: Number of positives in the evening.
        draws: Number of positives in the day.
        usual: Number of positives in the evenings of other days.
        others: Number of positives in the remaining hours of other days.
    """
    if draws > HANDFUL:
        return False
    share = betabinom.pmf(np.arange(draws + 1), draws, usual, others)
    return bool(min(share[: positives + 1].sum(), share[positives:].sum()) > ONE_SIDED)


def _evening_counts(of: Sequence[DayProfile]) -> tuple[Ints, Ints]:
    """Count rows and positives: two arrays [2], each with the counts before and after 18h."""
    hours = sum((day.hours for day in of), np.zeros((2, 24), np.int64))
    parts = np.stack([hours[:, :18].sum(axis=1), hours[:, 18:].sum(axis=1)], axis=1)
    return parts[0], parts[1]
