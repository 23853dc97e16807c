"""When a day of logs counts as complete: the typed `arrival` block."""

from __future__ import annotations

import datetime as dt

from pydantic import Field, field_validator, model_validator

from nightbid.config.base import Block


class Arrival(Block):
    """When the newest day of a night is complete. A night waits for it before `sample`."""

    marker: str = ""
    """File that is written last into the day's folder, such as `_SUCCESS`; with `{day}` in it, a
    path below `source.folder`, such as `{day}.done`. Empty: none is needed."""
    min_rows_ratio: float | None = Field(default=None, gt=0, le=1)
    """Least rows of the day, as a share of the median day of the night before it."""
    newest_time: str = ""
    """Clock that the newest row must have reached, such as `"23:50"`, in `source.time_zone`."""
    settled_minutes: float = Field(default=0, ge=0)
    """Minutes for which no file of the day may have changed."""
    asset: str = ""
    """URI of an Airflow asset whose update starts the night, instead of `schedule`."""
    deadline: str = "06:00"
    """Until when a night waits: clock of the day after the night, UTC. With hours, how long after
    the hour is over, such as `"00:30"`."""
    lag_days: int = Field(default=0, ge=0, le=7)
    """At the deadline the night may end its window that many days earlier instead, on a complete
    day, and says so; 0: it stops."""
    every_seconds: float = Field(default=60, ge=1, le=86_400)
    """Between two looks."""

    @field_validator("newest_time", "deadline")
    @classmethod
    def _is_a_clock(cls, text: str) -> str:
        if text:
            try:
                dt.time.fromisoformat(text)
            except ValueError:
                raise ValueError(f'{text!r} is no clock, such as "06:00"') from None
        return text

    @model_validator(mode="after")
    def _has_a_deadline(self) -> Arrival:
        if not self.deadline:
            raise ValueError('deadline is empty; write a clock such as "06:00"')
        return self
