"""Profiles of the days that a raw gate knows: tonight's window and days of earlier nights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nightbid.errors import MissingDataError
from nightbid.gates.drift import (
    BinnedPair,
    Distances,
    Draws,
    distances,
    independent,
    median,
    pair,
    subtract,
)
from nightbid.night.manifest import Manifest
from nightbid.night.task import StageTask
from nightbid.partitions import Unit, first_hour, hours_in, partition_of
from nightbid.profile.bins import Bins
from nightbid.profile.column import ColumnProfile
from nightbid.profile.profile import Profile
from nightbid.schema import KEY, TIME

OUTSIDE = "outside"
"""Name of a figure: rows outside the hour of their partition."""
LEAST_WEEKDAYS = 3
LEAST_DAYS = 3
"""Minimum number of days to find that a value changes daily."""
FEW_ENTITIES = 100
"""Number of entities below which changes of single items dominate their attributes' shares."""
ONE_VALUE = 0.95
"""Minimum share of entities with a single value for a column to be an attribute of the entity."""
"""Minimum number of same weekdays to compare a day with them alone; two suffice if they agree."""
AGREE = 1.25
"""Largest factor between two figures that agree."""


@dataclass(frozen=True)
class DayProfile:
    """One day of logs."""

    date: date
    profile: Profile
    figures: Mapping[str, float]
    """Counts of the day from the sample stage: read, written, quarantined, …"""
    unit: Unit = "day"
    """Unit by which the logs are partitioned."""
    partitions: tuple[str, ...] = ()
    """Hours that are judged together, ending with `date`; empty: the day is one partition."""

    @property
    def name(self) -> str:
        """Name of the day: YYYY-MM-DD, or YYYY-MM-DDTHH of its last hour."""
        return self.date.isoformat()

    @cached_property
    def hours(self) -> npt.NDArray[np.int64]:
        """Rows and positives by hour of the day, UTC: int64 [2, 24]."""
        table = np.zeros((2, 24), np.int64)
        for hour, counts in self.profile.rows_by_hour.items():
            if self.start <= hour < self.end:
                table[:, hour % 24] += counts
        return table

    @property
    def start(self) -> int:
        """Start of the day, in hours since 1970."""
        return self.end - ((len(self.partitions) and 24) or hours_in(self.unit))

    @property
    def end(self) -> int:
        """End of the day, in hours since 1970."""
        return first_hour(self.date) + hours_in(self.unit)

    @cached_property
    def outside(self) -> int:
        """Number of rows whose time is outside the day, or outside the hour of their partition."""
        if OUTSIDE in self.figures:
            return int(self.figures[OUTSIDE])
        times = self.profile.columns.get(TIME)
        return (times.values if times else 0) - int(self.hours[0].sum())


class DayProfiles:
    """Tonight's window and all other known days, which define what is usual."""

    def __init__(
        self,
        window: Sequence[DayProfile],
        older: Sequence[DayProfile],
        expected: Sequence[date],
        missing: Sequence[date] | None = None,
    ):
        self.window = list(window)
        self.all = sorted([*older, *window], key=lambda day: day.date)
        self.expected = list(expected)
        present = {day.date for day in window if day.profile.rows}
        self.missing = [day for day in expected if day not in present]
        """Partitions of the window without rows."""
        if missing is not None:
            self.missing = list(missing)
        self.ids: frozenset[str] = frozenset()
        """Columns whose numbers are ids, so that their order has no meaning."""
        self._pooled: dict[str, tuple[ColumnProfile, Bins]] = {}
        self.auc: dict[tuple[date, str], tuple[float, float, float] | None] = {}
        """Cache: (day, column) → association of the column with the label."""
        self._moving: dict[tuple[str, str], bool] = {}
        self._agreements: dict[tuple[date, date, str, str], tuple[float, int] | None] = {}
        self._distances: dict[tuple[date, str], Distances | None] = {}

    @classmethod
    def of(cls, task: StageTask) -> DayProfiles:
        """Load the profiles of the window and of earlier nights.

        Raises:
            MissingDataError: The output of the sample stage has no profile.
        """
        sample = task.inputs["sample"]
        night = task.night
        # History days before the logs start were never sampled.
        sampled = sample.manifest.metrics.get("days", {})
        history = [day for day in night.history if day.isoformat() in sampled]
        expected = [*history, *night.train, *night.validate_, *night.evaluate]
        window = _load(
            sample.part("profile/"),
            sample.manifest,
            {day.isoformat() for day in expected},
            task.spec.partition,
        )
        if not window:
            raise MissingDataError(
                "no day has a profile",
                where=str(sample.folder / "profile"),
                hint="rerun the sample stage",
            )
        known = {day.name for day in window} | {day.isoformat() for day in expected}
        older: list[DayProfile] = []
        for earlier in reversed(task.history):
            names = set(earlier.manifest.metrics.get("days", {})) - known
            older += _load(earlier.part("profile/"), earlier.manifest, names, task.spec.partition)
            known |= names
        return cls(window, older, expected)

    def others(self, day: DayProfile) -> list[DayProfile]:
        """List all known days except this one."""
        return [other for other in self.all if other.date != day.date]

    def usual(self, day: DayProfile, figure: Callable[[DayProfile], float | None]) -> float | None:
        """Get the median of a figure over the other days; None if no other day has it."""
        values = [value for other in self.others(day) if (value := figure(other)) is not None]
        return median(values) if values else None

    def usual_of_weekday(
        self, day: DayProfile, figure: Callable[[DayProfile], float]
    ) -> float | None:
        """Get the median over the same weekdays if enough are known, else over all days."""
        others = self.others(day)
        same = [figure(other) for other in others if other.date.weekday() == day.date.weekday()]
        # With two weekdays the median is only usable if they agree.
        enough = len(same) >= LEAST_WEEKDAYS or (len(same) == 2 and max(same) < AGREE * min(same))
        chosen = same if enough else [figure(other) for other in others]
        return median(chosen) if chosen else None

    def against_others(self, day: DayProfile, name: str) -> BinnedPair | None:
        """Align a column's counts on this day with the total of all other days."""
        column = day.profile.columns.get(name)
        if column is None or name == KEY:
            return None
        pooled = self._pool(name)
        if pooled is None or pooled[0].kind != column.kind:
            return None
        whole, bins = pooled
        both = pair(column, whole, subtract(bins, column.bins))
        # The nulls of the pool include those of this day.
        both.old[-1] -= column.nulls
        both.old_positives[-1] -= column.null_positives
        return both if both.old.sum() > 0 else None

    def distances(self, day: DayProfile, name: str) -> Distances | None:
        """Get the distances of a column between this day and the total of all other days."""
        key = (day.date, name)
        if key not in self._distances:
            both = self.against_others(day, name)
            if both is not None and name in self.ids:
                both = replace(both, ordered=False, middles=np.zeros(0))
            drift = None if both is None else distances(both, draws=self._draws(day, name))
            self._distances[key] = drift
        return self._distances[key]

    def moves_on(self, day: DayProfile, name: str) -> str:
        """Get the entity column (user or item) whose value of a column changes every day.

        An example is the age of an item: all rows of an item have the same age, which increases
        daily. Empty if there is no such entity column.
        """
        for entity, attributes in day.profile.attributes.items():
            if attributes.constant(name) >= ONE_VALUE and self._differs_daily(entity, name):
                return entity
        return ""

    def _differs_daily(self, entity: str, name: str) -> bool:
        """Whether the values of entities differ between all days.

        If only one day disagrees with the others, a join of that day is stale instead.
        """
        key = entity, name
        if key not in self._moving:
            agreed = [
                agreement[0] for day in self.all if (agreement := self.agreement(day, entity, name))
            ]
            self._moving[key] = len(agreed) >= LEAST_DAYS and median(agreed) < 1 - ONE_VALUE
        return self._moving[key]

    def _draws(self, day: DayProfile, name: str) -> Draws | None:
        """Get the number of independent draws on this day and on others; None: the rows are."""
        moving = self.moves_on(day, name)
        for entity in [moving] if moving else self._owners(day, name):
            column, pooled = day.profile.columns.get(entity), self._pool(entity)
            if column is None or pooled is None:
                continue
            # Other days have the same entities.
            draws = independent(column), independent(pooled[0])
            if moving or draws[0] < FEW_ENTITIES:
                return draws
        return None

    def _owners(self, day: DayProfile, name: str) -> list[str]:
        """List the entity columns that determine a column; an id column determines itself."""
        return [
            entity
            for entity, attributes in day.profile.attributes.items()
            if name == entity or attributes.constant(name) >= ONE_VALUE
        ]

    def usual_distances(self, day: DayProfile, name: str) -> Distances:
        """Get the median distances of the window's other days, each from all of its other days.

        They are not 0 for a column that is constant within a day but differs between days, such as
        the weekday, or the age of an ad that half of the rows show.
        """
        drifts = [
            drift
            for other in self.window
            if other.date != day.date and (drift := self.distances(other, name)) is not None
        ]
        if len(drifts) < 2:
            return Distances(0.0, 0.0, 0.0)
        return Distances(*map(median, zip(*drifts, strict=True)))

    def agreement(self, day: DayProfile, entity: str, name: str) -> tuple[float, int] | None:
        """Get the share of sampled users (items) whose attribute is the same as on other days.

        Returns:
            Median of the share over the other days, and the median number of users (items) that
            could be compared; None if there is nothing to compare.
        """
        agreements = [
            value
            for other in self.others(day)
            if (value := self._agreement(day, other, entity, name)) is not None
        ]
        if not agreements:
            return None
        return median([agreement[0] for agreement in agreements]), int(
            median([agreement[1] for agreement in agreements])
        )

    def _agreement(
        self, one: DayProfile, two: DayProfile, entity: str, name: str
    ) -> tuple[float, int] | None:
        first, second = sorted((one, two), key=lambda day: day.date)
        key = (first.date, second.date, entity, name)
        if key not in self._agreements:
            left = first.profile.attributes.get(entity)
            right = second.profile.attributes.get(entity)
            self._agreements[key] = left.agreement(right, name) if left and right else None
        return self._agreements[key]

    def _pool(self, name: str) -> tuple[ColumnProfile, Bins] | None:
        if name not in self._pooled:
            columns = [
                column for day in self.all if (column := day.profile.columns.get(name)) is not None
            ]
            kinds = {column.kind for column in columns} - {"empty"}
            if len(columns) < 2 or len(kinds) != 1:
                return None
            whole = columns[0]
            for other in columns[1:]:
                whole = whole.merge(other)
            self._pooled[name] = (whole, whole.bins)
        return self._pooled[name]


def _load(folder: Path, manifest: Manifest, names: set[str], unit: Unit) -> list[DayProfile]:
    days = []
    for name in sorted(names):
        path = folder / "profile" / f"dt={name}.json"
        if path.exists():
            figures = manifest.metrics.get("days", {}).get(name, {})
            numbers = {key: float(value) for key, value in figures.items() if value is not None}
            when = partition_of(name)
            days.append(DayProfile(when, Profile.load(path), numbers, unit))
    return days
