"""Where a pipeline's rows come from: the typed `source` block."""

from __future__ import annotations

import codecs
import re
from datetime import UTC, date, datetime
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, field_validator, model_validator

from nightbid.config.base import Block
from nightbid.config.faults import Fault
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


def _changes_clocks(zone: str) -> bool:
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


class SimulatorSource(PartitionedSource):
    """A simulated ad exchange with known true probabilities."""

    kind: Literal["simulator"] = "simulator"
    start: date = date(2026, 1, 1)
    """First day of the simulated logs."""
    rows_per_day: int = Field(default=60_000, ge=1)
    """Average number of impressions per day; it varies by weekday."""
    users: int = Field(default=20_000, ge=10)
    """Number of users."""
    ads: int = Field(default=2_000, ge=10)
    """Number of ads."""
    seed: int = 0
    """Seed of the simulated world: the same seed gives the same bytes."""
    incumbent: float | None = Field(default=None, ge=0, le=5)
    """Standard deviation of a simulated legacy score. Adds a column `legacy_score`, as if another
    platform's model had served these impressions: the true click probability with normal noise of
    this standard deviation on its logit. Null: no such column."""
    competing_bids: bool = False
    """Whether to add a column `competing_bids` with the bids of the other ads in each auction,
    highest first, before any floor. With `columns.competing`, a replay under another floor is then
    exact."""
    exploration: float | None = Field(default=None, gt=0, le=10)
    """Temperature of a randomized auction, for `policy`: the shown ad is drawn with probability
    proportional to its bid to the power of 1/`exploration`. Adds the columns `propensity` (that
    probability), `candidates` (the ads that bid) and `candidates_true` (their true click
    probabilities). Null: the highest bid wins."""
    faults: tuple[str, ...] = ()
    """Faults to inject, as `kind@YYYY-MM-DD` or `kind@YYYY-MM-DD:amount`; see config/faults.py."""

    @field_validator("faults")
    @classmethod
    def _faults_are_known(cls, faults: tuple[str, ...]) -> tuple[str, ...]:
        for text in faults:
            Fault.parse(text)
        return faults


class ObdSource(LogSource):
    """The small-sized Open Bandit logs: real impressions with position and propensity."""

    kind: Literal["obd"] = "obd"
    campaign: Literal["all", "men", "women"] = "all"
    """Campaign of the data set: items for all customers, for men or for women."""
    policy: Literal["random", "bts"] = "random"
    """Logging policy: uniformly random, or Bernoulli Thompson sampling (`bts`)."""


class KuaiRandSource(LogSource):
    """Real short-video impressions, from a folder holding the KuaiRand-Pure files."""

    time_zone: ClassVar[str] = "Asia/Shanghai"
    """Time zone of the days in the files."""

    kind: Literal["kuairand"] = "kuairand"
    folder: str
    """Folder with the CSV files as published, plain or gzipped."""


FileKind = Literal["parquet", "csv", "jsonl", "orc", "avro"]
FolderKind = Literal["parquet", "csv", "jsonl", "orc", "avro", "delta", "iceberg", "bigquery"]
BIGQUERY = "bq://"
BIGQUERY_TABLE = re.compile(r"bq://([a-z][a-z0-9.:-]*)\.([A-Za-z0-9_]+)\.([\w-]+\*?)")
"""URI with project, data set and table; a star at the end stands for the day, YYYYMMDD."""
ColumnType = Literal["string", "int", "float", "bool", "time"]


class FolderSource(PartitionedSource):
    """Your own folder of daily partitions (`dt=YYYY-MM-DD/`, or one file per day)."""

    kind: FolderKind
    """File format: `parquet`, `csv` (also TSV), `jsonl` (JSON lines), `orc` or `avro`; or a table
    partitioned by days: `delta`, `iceberg` or `bigquery`."""
    folder: str
    """Folder with one partition or file per day; also `gs://bucket/prefix` or `s3://bucket/prefix`.
    For BigQuery: `bq://project.dataset.table`, or `…events_*` for one table per day."""
    rename: dict[str, str] = Field(default_factory=dict)
    """Column of the file → column of the pipeline."""
    layout: Literal["plain", "criteo", "avazu", "ipinyou"] = "plain"
    """Layout of the files. `criteo`, `avazu` and `ipinyou`: the files of these data sets as
    published (`kind: csv`)."""
    types: dict[str, ColumnType] = Field(default_factory=dict)
    """Column of the pipeline → type. Rows with a value of another type are quarantined. Other
    columns of csv files get the narrowest type that preserves all texts in the window."""
    names: tuple[str, ...] = ()
    """Column names in order, for csv files without a header."""
    delimiter: str = Field(default="", max_length=1)
    """Field separator; empty: a tab in *.tsv files, otherwise a comma."""
    quoting: bool | None = None
    """Whether fields of csv files may be quoted; null: only if the separator is not a tab."""
    encoding: str = "utf-8"
    """Encoding of csv files: `utf-8`, `latin-1`, `utf-16`, …"""
    decimal: Literal[".", ","] = "."
    """Decimal mark of numbers in csv files; with a comma, points separate thousands."""
    time_format: str = ""
    """Format of times that are not ISO 8601, in csv files and in columns of type `time` of other
    formats: directives of Python's strptime, such as `%d/%m/%Y %H:%M:%S`. Times without a zone are
    in `time_zone`."""
    nulls: tuple[str, ...] = ()
    """More texts that mean null in csv files; the empty text and `\\N` always do."""
    day_column: str = ""
    """Column whose time gives the day of a row, if the file names do not. A file may then hold many
    days, and a day may be in several files."""
    first_day: date = date(2026, 1, 1)
    """Day of `day_0`, or of the first part of a single file (criteo)."""
    days_per_file: int = Field(default=1, ge=1, le=366)
    """Number of days into which one uncompressed, time-ordered file is split (criteo)."""
    outcomes: tuple[str, ...] = ()
    """Columns that are known only after the impression; they are refused as features."""
    make_key: str = ""
    """Name of a key column to generate from the day and the row number, for logs without a column
    that identifies an impression. The keys of rows change when the files of their day change."""
    time_zone: str = "UTC"
    """Time zone of the days, such as `America/New_York`, and of times without a zone."""

    @field_validator("folder")
    @classmethod
    def _bucket_can_be_read(cls, folder: str) -> str:
        if folder.startswith(BIGQUERY) and not BIGQUERY_TABLE.fullmatch(folder):
            raise ValueError(
                f"{folder!r} is not a BigQuery table; write bq://project.dataset.table, or"
                " bq://project.dataset.events_* for a table per day"
            )
        if "://" in folder and not folder.startswith(("gs://", "s3://", BIGQUERY)):
            raise ValueError(
                f"{folder!r} is neither a folder nor gs://, s3:// or bq://; mount it or copy the"
                " days, and name that folder"
            )
        return folder

    @field_validator("time_zone")
    @classmethod
    def _zone_is_known(cls, name: str) -> str:
        known = available_timezones()
        if name not in known:
            close = get_close_matches(name, sorted(known), 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"{name!r} is not a time zone, such as Europe/Berlin{hint}")
        return name

    @field_validator("time_format")
    @classmethod
    def _format_names_a_day(cls, form: str) -> str:
        try:
            example = datetime(2026, 1, 15, 14, 5, 6, tzinfo=UTC)
            datetime.strptime(example.strftime(form), form)
        except ValueError as error:
            raise ValueError(f"{form!r} is not a strptime format: {error}") from error
        directives = set(re.findall(r"%([a-zA-Z])", form))
        has_day = directives & {"c", "x", "D"} or (
            directives & {"Y", "y", "G"} and directives & {"d", "j", "u", "V"}
        )
        if form and not has_day:
            raise ValueError(f"{form!r} names no day; write %d/%m/%Y %H:%M:%S, for example")
        return form

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, name: str) -> str:
        try:
            codecs.lookup(name)
        except LookupError as error:
            raise ValueError(f"{name!r} is not an encoding, such as latin-1") from error
        return name

    @model_validator(mode="after")
    def _text_settings_are_of_csv(self) -> FolderSource:
        plain = FolderSource.model_fields
        for name in ("quoting", "encoding", "decimal", "nulls"):
            if self.kind != "csv" and getattr(self, name) != plain[name].default:
                raise ValueError(f"{name} is for `kind: csv`, but this is `kind: {self.kind}`")
        return self

    @model_validator(mode="after")
    def _hours_have_one_clock(self) -> FolderSource:
        if self.partition != "day" and self.layout in ("criteo", "ipinyou"):
            raise ValueError(f"layout {self.layout} has days; remove partition: {self.partition}")
        if self.partition == "hour" and _changes_clocks(self.time_zone):
            raise ValueError(
                f"the clocks of {self.time_zone} change twice a year, so one hour occurs twice "
                "and one is missing; partition by hours of UTC, or remove partition: hour"
            )
        return self

    @model_validator(mode="after")
    def _bigquery_is_a_table(self) -> FolderSource:
        if (self.kind == "bigquery") != self.folder.startswith(BIGQUERY):
            raise ValueError(
                f"`kind: {self.kind}` and the folder {self.folder!r} do not match: a BigQuery "
                "table is `kind: bigquery`, folder bq://project.dataset.table"
            )
        return self

    @model_validator(mode="after")
    def _layouts_are_csv(self) -> FolderSource:
        is_table = self.kind in ("delta", "iceberg", "bigquery")
        if self.day_column and (self.layout != "plain" or is_table):
            raise ValueError(
                f"day_column is for plain files, and {self.kind}, layout {self.layout}, names days"
            )
        if self.layout != "plain" and (self.kind != "csv" or self.names):
            raise ValueError(
                f"layout {self.layout} needs `kind: csv` and no `names`: it has its own"
            )
        return self


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
    """Column that identifies a click or conversion; repeated events are dropped. Empty: events of
    the same impression at the same time are the same event."""
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


def defaults_of(source: object) -> dict[str, dict[str, str | None]]:
    """Get the defaults of `columns` and `label` that depend on the source.

    Args:
        source: The `source` block, as read from the YAML or as a typed block.
    """
    plain = source.model_dump() if isinstance(source, Block) else source
    if not isinstance(plain, dict):
        return {}
    if plain.get("kind") == "obd":
        return {"columns": {"item": "item_id", "propensity": "propensity_score"}}
    if plain.get("kind") == "events":
        roles = {"key": plain.get("key", "impression_id"), "time": plain.get("time", "time")}
        return {"columns": roles, "label": {"column": "clicked"}}
    if plain.get("layout") == "criteo":  # it is unknown which of C1 to C26 is the ad
        return {"columns": {"item": None}, "label": {"column": "label"}}
    if plain.get("layout") == "avazu":
        return {"columns": {"item": "C14"}}
    if plain.get("layout") == "ipinyou":
        return {
            "columns": {
                "item": "creative_id",
                "price": "paying_price",
                "bid": "bidding_price",
                "floor": "slot_floor_price",
            }
        }
    return {}


Source = Annotated[
    SimulatorSource | ObdSource | KuaiRandSource | FolderSource | EventsSource,
    Field(discriminator="kind"),
]
