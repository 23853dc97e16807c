"""A `source` block that names a folder of daily files, or a table partitioned by days."""

from __future__ import annotations

import codecs
import re
from datetime import UTC, date, datetime
from difflib import get_close_matches
from functools import cache
from typing import Literal
from zoneinfo import available_timezones

from pydantic import Field, field_validator, model_validator

from nightbid.config.log_source import PartitionedSource, changes_clocks

FileKind = Literal["parquet", "csv", "jsonl", "orc", "avro"]
FolderKind = Literal["parquet", "csv", "jsonl", "orc", "avro", "delta", "iceberg", "bigquery"]
BIGQUERY = "bq://"
BIGQUERY_TABLE = re.compile(r"bq://([a-z][a-z0-9.:-]*)\.([A-Za-z0-9_]+)\.([\w-]+\*?)")
"""URI with project, data set and table; a star at the end stands for the day, YYYYMMDD."""
ColumnType = Literal["string", "int", "float", "bool", "time"]


@cache
def time_zones() -> frozenset[str]:
    """Names of all time zones; reading their files takes longer than reading a pipeline."""
    return frozenset(available_timezones())


class FolderSource(PartitionedSource):
    """Your own folder of daily partitions (`dt=YYYY-MM-DD/`, or one file per day)."""

    kind: FolderKind
    """File format: `parquet`, `csv` (also TSV), `jsonl` (JSON lines), `orc` or `avro`; or a table
    partitioned by days: `delta`, `iceberg` or `bigquery`."""
    folder: str
    """Folder with one partition or file per day; also `gs://bucket/prefix` or `s3://bucket/prefix`.
    For BigQuery: `bq://project.dataset.table`, or `…events_*` for one table per day."""
    rename: dict[str, str] = Field(default_factory=dict)
    """Column of the file → column of the pipeline. Files may have either, so a window may include
    the day on which the logs renamed a column."""
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
    quote_escape: Literal["double", "backslash"] = "double"
    """How a quotation mark within a quoted field of a csv file is written: `""` (`double`), or
    `\\"` (`backslash`), as Spark and MySQL do."""
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

    def renamed(self, name: str) -> str:
        """Return the pipeline's name for a column of the files."""
        return self.rename.get(name, name)

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
        known = time_zones()
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
        for name in ("quoting", "quote_escape", "encoding", "decimal", "nulls"):
            if self.kind != "csv" and getattr(self, name) != plain[name].default:
                raise ValueError(f"{name} is for `kind: csv`, but this is `kind: {self.kind}`")
        return self

    @model_validator(mode="after")
    def _hours_have_one_clock(self) -> FolderSource:
        if self.partition != "day" and self.layout in ("criteo", "ipinyou"):
            raise ValueError(f"layout {self.layout} has days; remove partition: {self.partition}")
        if self.partition == "hour" and changes_clocks(self.time_zone):
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
