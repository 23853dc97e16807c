"""The days that a raw gate knows: tonight's window, and older ones from earlier nights."""

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
    Distances,
    Draws,
    Pair,
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
"""Figure: rows outside of the hour of their partition."""
LEAST_WEEKDAYS = 3
LEAST_DAYS = 3
"""Days from which on a value is said to move on."""
FEW_ENTITIES = 100
"""So few draws that what single items are shown moves the shares of what they are."""
ONE_VALUE = 0.95
"""Share of the entities that have one value, for a column to belong to them."""
"""Same weekdays needed before a day is compared with them alone; two that agree will do."""
AGREE = 1.25
"""Two figures that differ by less than this factor agree."""


@dataclass(frozen=True)
class Day:
    """One day of logs."""

    date: date
    profile: Profile
    figures: Mapping[str, float]
    """The sample stage's own counts of the day: read, written, quarantined, …"""
    unit: Unit = "day"
    """What the logs are partitioned by."""
    partitions: tuple[str, ...] = ()
    """Hours that are judged together, ending with `date`; empty: it is one partition."""

    @property
    def name(self) -> str:
        """YYYY-MM-DD, or YYYY-MM-DDTHH of the last hour."""
        return self.date.isoformat()

    @cached_property
    def hours(self) -> npt.NDArray[np.int64]:
        """int64 [2, 24]: rows and positives by hour of the day, UTC."""
        table = np.zeros((2, 24), np.int64)
        for hour, counts in self.profile.rows_by_hour.items():
            if self.start <= hour < self.end:
                table[:, hour % 24] += counts
        return table

    @property
    def start(self) -> int:
        """Hours from 1970 to its beginning."""
        return self.end - ((len(self.partitions) and 24) or hours_in(self.unit))

    @property
    def end(self) -> int:
        """Hours from 1970 to its end."""
        return first_hour(self.date) + hours_in(self.unit)

    @cached_property
    def outside(self) -> int:
        """Rows whose time lies in another day, or in another hour than that of their partition."""
        if OUTSIDE in self.figures:
            return int(self.figures[OUTSIDE])
        times = self.profile.columns.get(TIME)
        return (times.values if times else 0) - int(self.hours[0].sum())


class Days:
    """Tonight's window, and what is usual: all other known days."""

    def __init__(
        self,
        window: Sequence[Day],
        older: Sequence[Day],
        expected: Sequence[date],
        missing: Sequence[date] | None = None,
    ):
        self.window = list(window)
        self.all = sorted([*older, *window], key=lambda day: day.date)
        self.expected = list(expected)
        present = {day.date for day in window if day.profile.rows}
        self.missing = [each for each in expected if each not in present]
        """Partitions of the window without a row."""
        if missing is not None:
            self.missing = list(missing)
        self.ids: frozenset[str] = frozenset()
        """Columns whose numbers are names: their order means nothing."""
        self._pooled: dict[str, tuple[ColumnProfile, Bins]] = {}
        self.auc: dict[tuple[date, str], tuple[float, float, float] | None] = {}
        """Association of a column with the label on a day, once computed."""
        self._moving: dict[tuple[str, str], bool] = {}
        self._agreements: dict[tuple[date, date, str, str], tuple[float, int] | None] = {}
        self._distances: dict[tuple[date, str], Distances | None] = {}

    @classmethod
    def of(cls, task: StageTask) -> Days:
        """Load the profiles of the window and of earlier nights.

        Raises:
            MissingDataError: the sample stage left no profile at all.
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
            {each.isoformat() for each in expected},
            task.spec.partition,
        )
        if not window:
            raise MissingDataError(
                "no day has a profile",
                where=str(sample.folder / "profile"),
                hint="rerun the sample stage",
            )
        known = {day.name for day in window} | {each.isoformat() for each in expected}
        older: list[Day] = []
        for earlier in reversed(task.history):
            names = set(earlier.manifest.metrics.get("days", {})) - known
            older += _load(earlier.part("profile/"), earlier.manifest, names, task.spec.partition)
            known |= names
        return cls(window, older, expected)

    def others(self, day: Day) -> list[Day]:
        """Every known day but this one."""
        return [each for each in self.all if each.date != day.date]

    def usual(self, day: Day, figure: Callable[[Day], float | None]) -> float | None:
        """Median of a figure over the other days; None if no other day has it."""
        values = [value for each in self.others(day) if (value := figure(each)) is not None]
        return median(values) if values else None

    def usual_of_weekday(self, day: Day, figure: Callable[[Day], float]) -> float | None:
        """Median over the same weekdays once enough are known, else over all days."""
        others = self.others(day)
        same = [figure(each) for each in others if each.date.weekday() == day.date.weekday()]
        # The median of two tells nothing of which one is wrong, unless none is.
        enough = len(same) >= LEAST_WEEKDAYS or (len(same) == 2 and max(same) < AGREE * min(same))
        chosen = same if enough else [figure(each) for each in others]
        return median(chosen) if chosen else None

    def against_others(self, day: Day, name: str) -> Pair | None:
        """Align a column's counts on this day with those on all others together."""
        column = day.profile.columns.get(name)
        if column is None or name == KEY:
            return None
        pooled = self._pool(name)
        if pooled is None or pooled[0].kind != column.kind:
            return None
        whole, bins = pooled
        both = pair(column, whole, subtract(bins, column.bins))
        # The pool's nulls include this day's.
        both.old[-1] -= column.nulls
        both.old_positives[-1] -= column.null_positives
        return both if both.old.sum() > 0 else None

    def distances(self, day: Day, name: str) -> Distances | None:
        """Distances of a column on this day from all others together."""
        key = (day.date, name)
        if key not in self._distances:
            both = self.against_others(day, name)
            if both is not None and name in self.ids:
                both = replace(both, ordered=False, middles=np.zeros(0))
            found = None if both is None else distances(both, draws=self._draws(day, name))
            self._distances[key] = found
        return self._distances[key]

    def moves_on(self, day: Day, name: str) -> str:
        """Name the column of the entities whose value of a column is another one every day.

        Such as the item of its age: all rows of an item have it, and it is a day older tomorrow.
        Empty if there is none.
        """
        for entity, attributes in day.profile.attributes.items():
            if attributes.constant(name) >= ONE_VALUE and self._differs_daily(entity, name):
                return entity
        return ""

    def _differs_daily(self, entity: str, name: str) -> bool:
        """Whether an entity's value is another one on every day.

        Where one day alone disagrees with the others, a join of that day is stale.
        """
        key = entity, name
        if key not in self._moving:
            agreed = [
                found[0] for each in self.all if (found := self.agreement(each, entity, name))
            ]
            self._moving[key] = len(agreed) >= LEAST_DAYS and median(agreed) < 1 - ONE_VALUE
        return self._moving[key]

    def _draws(self, day: Day, name: str) -> Draws | None:
        """Independent draws of a column on this day and on the others; None: its rows."""
        moving = self.moves_on(day, name)
        for entity in [moving] if moving else self._owners(day, name):
            column, pooled = day.profile.columns.get(entity), self._pool(entity)
            if column is None or pooled is None:
                continue
            # The same entities are there on other days.
            draws = independent(column), independent(pooled[0])
            if moving or draws[0] < FEW_ENTITIES:
                return draws
        return None

    def _owners(self, day: Day, name: str) -> list[str]:
        """Columns of entities of which each has one value of a column; ids own themselves."""
        return [
            entity
            for entity, attributes in day.profile.attributes.items()
            if name == entity or attributes.constant(name) >= ONE_VALUE
        ]

    def usual_distances(self, day: Day, name: str) -> Distances:
        """What the other days of the window differ from all others by; median of each.

        Not 0 for a column that is one thing on every day: a weekday, the age of the one ad that
        half of the rows show.
        """
        found = [
            value
            for each in self.window
            if each.date != day.date and (value := self.distances(each, name)) is not None
        ]
        if len(found) < 2:
            return Distances(0.0, 0.0, 0.0)
        return Distances(*map(median, zip(*found, strict=True)))

    def agreement(self, day: Day, entity: str, name: str) -> tuple[float, int] | None:
        """Share of an entity's sampled members whose attribute is what it was on other days.

        Median over the other days, and the median number of members that could be compared.
        """
        found = [
            value
            for each in self.others(day)
            if (value := self._agreement(day, each, entity, name)) is not None
        ]
        if not found:
            return None
        return median([each[0] for each in found]), int(median([each[1] for each in found]))

    def _agreement(self, one: Day, two: Day, entity: str, name: str) -> tuple[float, int] | None:
        first, second = sorted((one, two), key=lambda each: each.date)
        key = (first.date, second.date, entity, name)
        if key not in self._agreements:
            left = first.profile.attributes.get(entity)
            right = second.profile.attributes.get(entity)
            self._agreements[key] = left.agreement(right, name) if left and right else None
        return self._agreements[key]

    def _pool(self, name: str) -> tuple[ColumnProfile, Bins] | None:
        if name not in self._pooled:
            found = [c for day in self.all if (c := day.profile.columns.get(name)) is not None]
            kinds = {each.kind for each in found} - {"empty"}
            if len(found) < 2 or len(kinds) != 1:
                return None
            whole = found[0]
            for each in found[1:]:
                whole = whole.merge(each)
            self._pooled[name] = (whole, whole.bins)
        return self._pooled[name]


def _load(folder: Path, manifest: Manifest, names: set[str], unit: Unit) -> list[Day]:
    days = []
    for name in sorted(names):
        path = folder / "profile" / f"dt={name}.json"
        if path.exists():
            figures = manifest.metrics.get("days", {}).get(name, {})
            numbers = {key: float(value) for key, value in figures.items() if value is not None}
            when = partition_of(name)
            days.append(Day(when, Profile.load(path), numbers, unit))
    return days
