"""When nights begin, and which night each run is of, as its name and logical date say."""

from __future__ import annotations

import datetime as dt
import secrets
from typing import Any

from airflow.timetables.base import DagRunInfo, DataInterval, TimeRestriction
from airflow.timetables.trigger import CronTriggerTimetable
from airflow.utils.types import DagRunType
from pendulum import DateTime

DAY = dt.timedelta(days=1)


class NightTimetable(CronTriggerTimetable):
    """Starts a night at its time, on the day after its newest day of logs (UTC).

    The data interval of a run is its newest day of logs, and its logical date the beginning of
    that day. So a backfill from 8 to 10 January makes the nights of 8, 9 and 10 January, and the
    name of a run (`scheduled__2026-01-08`), which Airflow shows as its title, says its night.

    Args:
        cron: Cron expression, with one time a day at most.
    """

    def __init__(self, cron: str) -> None:
        super().__init__(cron, timezone="UTC")

    def serialize(self) -> dict[str, Any]:
        """Serialize the timetable."""
        return {"expression": self._expression}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> NightTimetable:
        """Make it again from what `serialize` gave."""
        return cls(data["expression"])

    def infer_manual_data_interval(self, *, run_after: DateTime) -> DataInterval:
        """Give a run by hand the last complete day before it."""
        return night_before(run_after)

    def next_dagrun_info(
        self, *, last_automated_data_interval: DataInterval | None, restriction: TimeRestriction
    ) -> DagRunInfo | None:
        """Choose the next night.

        Args:
            last_automated_data_interval: Of the newest run by schedule. In runs of older versions
                it is a moment on the day after their night.
            restriction: First and last night that is wanted; without catch-up, missed nights but
                the last are left out.
        """
        now = DateTime.now("UTC")
        earliest = []
        if not restriction.catchup:
            earliest.append(self._align_to_prev(now))
        if last_automated_data_interval is not None:
            earliest.append(self._tick_from(_floor(last_automated_data_interval.end)))
        elif restriction.earliest is not None:
            earliest.append(self._tick_from(_ceiling(restriction.earliest)))
        tick = max(earliest, default=None) or self._align_to_next(now)
        night = night_before(tick)
        if restriction.latest is not None and night.start > restriction.latest:
            return None
        return DagRunInfo(run_after=tick, data_interval=night)

    def _tick_from(self, day: DateTime) -> DateTime:
        """Find the first time at which a night of this day or of a later one may begin."""
        return self._align_to_next(day + DAY)

    def generate_run_id(
        self,
        *,
        run_type: DagRunType,
        run_after: DateTime,
        data_interval: DataInterval | None,
        **extra: Any,
    ) -> str:
        """Name a run by its night; one by hand, whose form may name another night, by its time."""
        if run_type == DagRunType.MANUAL or data_interval is None:
            return super().generate_run_id(
                run_type=run_type, run_after=run_after, data_interval=data_interval, **extra
            )
        night = f"{data_interval.start:%Y-%m-%d}"
        if run_type == DagRunType.SCHEDULED:
            return run_type.generate_run_id(suffix=night)
        # A night may be backfilled more than once.
        return run_type.generate_run_id(suffix=f"{night}__{secrets.token_hex(3)}")


def night_before(moment: DateTime) -> DataInterval:
    """The last day that is complete at some moment, UTC."""
    end = _floor(moment)
    return DataInterval(end - DAY, end)


def _floor(moment: DateTime) -> DateTime:
    return moment.in_timezone("UTC").start_of("day")


def _ceiling(moment: DateTime) -> DateTime:
    floor = _floor(moment)
    return floor if floor == moment else floor + DAY
