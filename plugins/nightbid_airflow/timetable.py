"""Timetable of nights: when they start, and which night a run's name and logical date stand for."""

from __future__ import annotations

import secrets
from datetime import date
from typing import Any

from airflow.timetables.base import DagRunInfo, DataInterval, TimeRestriction
from airflow.timetables.trigger import CronTriggerTimetable
from airflow.utils.types import DagRunType
from nightbid.partitions import STEPS, HourPartition, Unit, containing
from pendulum import DateTime


class NightTimetable(CronTriggerTimetable):
    """Starts a night by its cron expression, after its newest day (hour, week) of logs has ended.

    The data interval of a run is its newest day of logs (UTC), and its logical date is the start of
    that day. So a backfill from 8 to 10 January runs the nights of 8, 9 and 10 January, and the
    name of a run (`scheduled__2026-01-08`), which Airflow shows as its title, contains its night.

    Args:
        cron: Cron expression that fires at most once per partition.
        unit: Unit by which the logs are partitioned; the interval of a run is one partition.
        week_begins: First day of a week.
        zone: Time zone of hourly partitions.
    """

    def __init__(
        self, cron: str, unit: Unit = "day", week_begins: str = "monday", zone: str = "UTC"
    ) -> None:
        super().__init__(cron, timezone="UTC")
        self._unit, self._week_begins = unit, week_begins
        self._zone = zone if unit == "hour" else "UTC"

    def serialize(self) -> dict[str, Any]:
        """Serialize the timetable."""
        return {
            "expression": self._expression,
            "unit": self._unit,
            "week_begins": self._week_begins,
            "zone": self._zone,
        }

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> NightTimetable:
        """Create a timetable from the output of `serialize`."""
        names = ("unit", "week_begins", "zone")  # not in the output of older versions
        return cls(data["expression"], **{name: data[name] for name in names if name in data})

    def infer_manual_data_interval(self, *, run_after: DateTime) -> DataInterval:
        """Get the interval of a manual run: the last complete day, hour or week before it."""
        return self._night_before(run_after)

    def next_dagrun_info(
        self, *, last_automated_data_interval: DataInterval | None, restriction: TimeRestriction
    ) -> DagRunInfo | None:
        """Choose the next night.

        Args:
            last_automated_data_interval: Data interval of the newest scheduled run; None for none.
                In runs of older versions it is a moment on the day after their night.
            restriction: Earliest and latest night to run; without catch-up, all missed nights but
                the last are skipped.
        """
        now = DateTime.now("UTC")
        earliest = []
        if not restriction.catchup:
            earliest.append(self._align_to_prev(now))
        if last_automated_data_interval is not None:
            earliest.append(self._tick_from(self._floor(last_automated_data_interval.end)))
        elif restriction.earliest is not None:
            earliest.append(self._tick_from(self._ceiling(restriction.earliest)))
        tick = max(earliest, default=None) or self._align_to_next(now)
        night = self._night_before(tick)
        if restriction.latest is not None and night.start > restriction.latest:
            return None
        return DagRunInfo(run_after=tick, data_interval=night)

    def _tick_from(self, day: DateTime) -> DateTime:
        """Get the first time at which the night of this day or of a later one may start."""
        return self._align_to_next(day + STEPS[self._unit])

    def generate_run_id(
        self,
        *,
        run_type: DagRunType,
        run_after: DateTime,
        data_interval: DataInterval | None,
        **extra: Any,
    ) -> str:
        """Name a run after its night, but a manual run, whose form sets the night, by its time."""
        if run_type == DagRunType.MANUAL or data_interval is None:
            return super().generate_run_id(
                run_type=run_type, run_after=run_after, data_interval=data_interval, **extra
            )
        night = str(self._partition_at(data_interval.start))
        if run_type == DagRunType.SCHEDULED:
            return run_type.generate_run_id(suffix=night)
        # A night may be backfilled more than once.
        return run_type.generate_run_id(suffix=f"{night}__{secrets.token_hex(3)}")

    def _partition_at(self, moment: DateTime) -> date:
        return containing(moment.in_timezone(self._zone), self._unit, self._week_begins)

    def _night_before(self, moment: DateTime) -> DataInterval:
        """Get the last partition that is complete at a moment."""
        end = self._floor(moment)
        return DataInterval(end - STEPS[self._unit], end)

    def _floor(self, moment: DateTime) -> DateTime:
        """Get the start of the partition that contains a moment."""
        first = self._partition_at(moment)
        hour = first.hour if isinstance(first, HourPartition) else 0
        start = DateTime(first.year, first.month, first.day, hour)
        return start.in_timezone(self._zone).in_timezone("UTC")

    def _ceiling(self, moment: DateTime) -> DateTime:
        floor = self._floor(moment)
        return floor if floor == moment else floor + STEPS[self._unit]
