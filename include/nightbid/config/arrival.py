"""When a day of logs counts as complete: the typed `arrival` block."""

from __future__ import annotations

import datetime as dt

from pydantic import Field, field_validator, model_validator

from nightbid.config.base import Block


class Arrival(Block):
    """When the newest day of a night counts as complete. `sample` starts only then."""

    marker: str = ""
    """File that is written last into the day's folder, such as `_SUCCESS`. If it contains `{day}`,
    it is a path below `source.folder`, such as `{day}.done`. Empty: no marker is needed."""
    min_rows_ratio: float | None = Field(default=None, gt=0, le=1)
    """Minimum number of rows of the day, as a share of the median day of the previous night."""
    newest_time: str = ""
    """Time of day that the newest row must reach, such as `"23:50"`, in `source.time_zone`."""
    settled_minutes: float = Field(default=0, ge=0)
    """Minutes that must have passed since a file of the day last changed."""
    asset: str = ""
    """URI of an Airflow asset whose update starts the night, instead of `schedule`."""
    deadline: str = "06:00"
    """When a night stops waiting: time of day (UTC) on the day after the night's date. With
    `source.partition: hour`, time since the end of the hour, such as `"00:30"`."""
    lag_days: int = Field(default=0, ge=0, le=7)
    """Maximum number of days by which the window may end earlier, on a complete day, if the newest
    day is still incomplete at the deadline; the night reports it. 0: the night stops instead."""
    every_seconds: float = Field(default=60, ge=1, le=86_400)
    """Seconds between two checks of whether the day is complete."""

    @field_validator("newest_time", "deadline")
    @classmethod
    def _is_a_clock(cls, text: str) -> str:
        if text:
            try:
                clock = dt.time.fromisoformat(text)
            except ValueError:
                raise ValueError(f'{text!r} is not a time of day, such as "06:00"') from None
            if clock.tzinfo is not None:
                raise ValueError(f'{text!r} has a UTC offset; write only the time, such as "06:00"')
        return text

    @model_validator(mode="after")
    def _has_a_deadline(self) -> Arrival:
        if not self.deadline:
            raise ValueError('deadline is empty; write a time of day such as "06:00"')
        return self
