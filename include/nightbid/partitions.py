"""Partitions of a log: days, hours or weeks.

A `date` names a partition: a day, a week by its first day, or an hour by an `HourPartition`, which
is a date with an hour. Windows count partitions, and each night stands for one partition.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal, get_args

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

Unit = Literal["day", "hour", "week"]
STEPS: dict[Unit, timedelta] = {
    "day": timedelta(days=1),
    "hour": timedelta(hours=1),
    "week": timedelta(days=7),
}
Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
WEEKDAYS: tuple[Weekday, ...] = get_args(Weekday)
EPOCH = date(1970, 1, 1)
DAY_HOURS = 24


class HourPartition(datetime):
    """An hour of logs, in the time zone of their partitions; written `2026-01-05T03`."""

    @classmethod
    def of(cls, day: date, hour: int) -> HourPartition:
        """Get an hour of a day; `hour` is 0 to 23."""
        return cls(day.year, day.month, day.day, hour)

    def isoformat(self, sep: str = "T", timespec: str = "hours") -> str:
        """Format the hour as YYYY-MM-DDTHH."""
        return super().isoformat(sep, timespec)

    def __str__(self) -> str:
        return self.isoformat()

    def __format__(self, form: str, /) -> str:
        return super().__format__(form) if form else str(self)

    # If the partitions of a pipeline have changed, it has nights of days and of hours. A day sorts
    # before its hours.
    def __lt__(self, other: date, /) -> bool:
        return super().__lt__(_moment(other))

    def __le__(self, other: date, /) -> bool:
        return self == other or self < other

    def __gt__(self, other: date, /) -> bool:
        return not self <= other

    def __ge__(self, other: date, /) -> bool:
        return not self < other

    def __sub__(self, other: Any, /) -> Any:
        return super().__sub__(_moment(other) if isinstance(other, date) else other)  # type: ignore[operator]

    def __rsub__(self, other: date, /) -> timedelta:  # type: ignore[misc]
        return _moment(other) - datetime(self.year, self.month, self.day, self.hour)


def _moment(day: date) -> datetime:
    """Convert a partition to a comparable time; a day is just before its first hour."""
    if isinstance(day, datetime):
        return day
    return datetime(day.year, day.month, day.day) - timedelta(microseconds=1)


def partition_of(text: str) -> date:
    """Parse the name of a partition: YYYY-MM-DD, or YYYY-MM-DDTHH for an hour.

    Raises:
        ValueError: The text has another form.
    """
    day, mark, hour = text.partition("T")
    try:
        whole_day = date.fromisoformat(day)
        if mark and not (len(hour) == 2 and hour.isdigit()):
            raise ValueError
        return HourPartition.of(whole_day, int(hour)) if mark else whole_day
    except ValueError:
        raise ValueError(
            f"{text!r} is not a date; write YYYY-MM-DD, or YYYY-MM-DDTHH for an hour"
        ) from None


def _read(value: Any) -> date:
    if isinstance(value, str):
        return partition_of(value)
    if isinstance(value, datetime) and not isinstance(value, HourPartition):
        raise ValueError(f"{value} has a time of day; write YYYY-MM-DD, or YYYY-MM-DDTHH")
    if not isinstance(value, date):
        raise ValueError(f"{value!r} is not a date; write YYYY-MM-DD, or YYYY-MM-DDTHH for an hour")
    return value


Partition = Annotated[
    date,
    PlainValidator(_read),
    PlainSerializer(lambda value: value.isoformat(), return_type=str, when_used="json"),
    WithJsonSchema({"type": "string"}),
]
"""A `date` or an `HourPartition` in a typed record."""


def containing(moment: date, unit: Unit, begins: str = WEEKDAYS[0]) -> date:
    """Get the partition that contains a day, an hour, or a `datetime` of the partitions' zone.

    With hourly partitions, a plain day gives its last hour, so that its night has the whole day.

    Args:
        moment: Day or time.
        unit: Unit by which the log is partitioned.
        begins: First day of a week.
    """
    has_time = isinstance(moment, datetime)
    day = moment.date() if isinstance(moment, datetime) else moment
    if unit == "hour":
        return HourPartition.of(day, moment.hour if has_time else DAY_HOURS - 1)  # type: ignore[attr-defined]
    if unit == "week":
        return day - timedelta(days=(day.weekday() - WEEKDAYS.index(begins)) % 7)
    return day


def count_between(first: date, last: date, unit: Unit) -> int:
    """Count the partitions from one to another, both included."""
    return (last - first) // STEPS[unit] + 1


def first_hour(partition: date) -> int:
    """Get the start of a partition in hours since 1970, in its own time zone."""
    if isinstance(partition, HourPartition):
        return first_hour(partition.date()) + partition.hour
    return (partition - EPOCH).days * DAY_HOURS


def hours_in(unit: Unit) -> int:
    """Get the length of a partition in hours."""
    return STEPS[unit] // STEPS["hour"]


def end_of(partition: date, unit: Unit) -> datetime:
    """Get the end of a partition, as if its time zone were UTC."""
    start = datetime(partition.year, partition.month, partition.day, tzinfo=UTC)
    if isinstance(partition, HourPartition):
        start += timedelta(hours=partition.hour)
    return start + STEPS[unit]


def days_as_partitions(days: int, unit: Unit) -> int:
    """Convert a number of days to partitions: 24 hours per day, or weeks, rounded up."""
    return -(-days * timedelta(days=1) // STEPS[unit])
