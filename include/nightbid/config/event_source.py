"""The `source` block of `kind: events`: streams of impressions, clicks and conversions."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from nightbid.config.folder_source import FolderKind, FolderSource
from nightbid.config.log_source import LogSource


def _texts(values: object) -> tuple[str, ...]:
    """Convert a value, or a list of them, to the texts that the logs are compared with."""
    some = values if isinstance(values, (list, tuple)) else [values]
    return tuple(str(value).lower() if isinstance(value, bool) else str(value) for value in some)


class EventStream(FolderSource):
    """A stream of `kind: events`; a bare text is a folder of Parquet files."""

    kind: FolderKind = "parquet"
    """File format, as for `source.kind`."""
    only: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Which rows of the folder belong to the stream, if it holds several kinds of events: column →
    value, or a list of values, such as `{event: click}`. Rows without a value are quarantined."""

    @field_validator("only", mode="before")
    @classmethod
    def _values_are_texts(cls, only: object) -> object:
        if not isinstance(only, dict):
            return only
        return {column: _texts(values) for column, values in only.items()}

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, value: Any) -> Any:
        return {"folder": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _events_are_joined_by_days(self) -> EventStream:
        if self.partition != "day":
            raise ValueError(
                f"kind: events joins days, but partition is {self.partition}; remove partition"
            )
        return self


class EventsSource(LogSource):
    """Impressions, clicks and conversions as three streams, joined by an id."""

    streams: ClassVar[tuple[str, ...]] = ("impressions", "clicks", "conversions")

    kind: Literal["events"]
    impressions: EventStream
    """Stream of won impressions, one row each, with all columns that features read. The day of an
    impression is the day of the joined row. Each stream is a folder or a block as of any folder; if
    one folder holds all events, `only: {event: impression}` selects the stream's rows."""
    clicks: EventStream
    """Stream of clicks, by the day on which they were logged."""
    conversions: EventStream | None = None
    """Stream of conversions, by the day on which they were logged; null: none."""
    key: str = "impression_id"
    """Column that identifies the impression, in all streams; use `rename` if the names differ."""
    time: str = "time"
    """Column with the time of the impression or event, in all streams."""
    event_key: str = ""
    """Column that identifies a click or conversion, in one of these streams or both; repeated
    events are dropped. Without it, events of the same impression at the same time are the same."""
    value: str = ""
    """Column of the conversions with their monetary value; `conversion_value` is its sum."""
    attribution_days: int = Field(default=1, ge=0, le=60)
    """Maximum number of days between an impression and an event that counts. The clicks and
    conversions for a day of impressions are read from that day and this many days after it; 0: from
    that day alone."""
    touch: Literal["last", "first"] = "last"
    """Which of several clicks on an impression counts, for `click_time` and as the start of
    `click_through_days`."""
    click_through_days: float | None = Field(default=None, gt=0, le=3660)
    """Maximum number of days between a click and a conversion that counts; null:
    `attribution_days`."""
    view_through_days: float = Field(default=0, ge=0, le=3660)
    """Maximum number of days between an impression and a conversion without a click that counts; 0:
    such conversions do not count."""

    @property
    def time_zone(self) -> str:
        """Time zone of the days, that of the impressions."""
        return self.impressions.time_zone

    @model_validator(mode="after")
    def _streams_have_one_clock(self) -> EventsSource:
        for name in ("clicks", "conversions"):
            stream = getattr(self, name)
            if stream is not None and stream.time_zone != self.time_zone:
                raise ValueError(
                    f"{name}.time_zone is {stream.time_zone!r} and impressions.time_zone"
                    f" {self.time_zone!r}: the days of all streams need the same time zone"
                )
        if self.value and self.conversions is None:
            raise ValueError(f"value {self.value!r} is a column of conversions: name their folder")
        return self


JOINED = {
    "clicked": "click_time",
    "clicks": "click_time",
    "converted": "conversion_time",
    "conversions": "conversion_time",
    "conversion_value": "conversion_time",
}
"""Column that `kind: events` adds to an impression → column with the time of its event."""
