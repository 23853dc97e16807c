"""Keys of the `source` block that several kinds of sources share."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from pydantic import model_validator

from nightbid.config.base import Block
from nightbid.partitions import Unit, Weekday


class UserKey(Block):
    """Key that replaces user ids with keyed hashes before the first stage writes them."""

    env: str = ""
    """Environment variable that holds the secret, at least 16 bytes."""
    file: str = ""
    """File that holds the secret, as an alternative to `env`."""
    columns: tuple[str, ...] = ()
    """Columns with ids of people, in addition to `columns.user`."""

    @model_validator(mode="after")
    def _names_one_place(self) -> UserKey:
        if bool(self.env) == bool(self.file):
            raise ValueError("set either env or file")
        return self


class LogSource(Block):
    """Keys that all sources have in common."""

    user_key: UserKey | None = None
    """Secret with which the first stage replaces ids of people with keyed hashes: `{env: NAME}` or
    `{file: path}`, with further id columns in `columns`; see [security](security.md)."""


def changes_clocks(zone: str) -> bool:
    """Whether a zone has summer time."""
    months = [datetime(2025, month, 1, tzinfo=ZoneInfo(zone)) for month in range(1, 13)]
    return len({month.utcoffset() for month in months}) > 1


class PartitionedSource(LogSource):
    """A source whose partitions may be longer or shorter than a day."""

    partition: Unit = "day"
    """Unit by which the logs are partitioned, which is also the unit of the window and of a night:
    `day`, `hour` (folders such as `dt=2026-01-05/hour=03` or `2026010503`) or `week` (folders named
    after a day of the week or as `2026-W02`; the days of a week are read together)."""
    week_begins: Weekday = "monday"
    """With `partition: week`: first day of each week."""
