"""Inspects a folder of logs once, for everything that a first pipeline needs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import TypeAdapter

from nightbid.config.columns import Columns
from nightbid.config.folder_source import BIGQUERY
from nightbid.config.sources import SourceBlock, defaults_of
from nightbid.data.day_names import SPELLED, SUFFIXES
from nightbid.data.places import REMOTE
from nightbid.data.source import JoinsEvents, open_source
from nightbid.data.window_types import TypeConflictError
from nightbid.data_check.columns import ColumnSummary, day_numbers, summarize
from nightbid.data_check.detect import source_block, time_column
from nightbid.data_check.draft import draft
from nightbid.data_check.names import rank_of
from nightbid.data_check.partitions import has_hours, unit_of, weeks_of
from nightbid.data_check.roles import InferredRoles, find_roles
from nightbid.data_check.rows import first_rows
from nightbid.data_check.streams import events_block, mixed_streams, stream_folders
from nightbid.errors import MissingDataError
from nightbid.partitions import STEPS
from nightbid.time_parsing import as_time

LEAST_INSIDE = 0.5
"""Minimum share of times on the day of their file for the names of files to be right."""
ROLES = ("key", "time", "user", "item", "position", "price", "bid", "floor", "value")


@dataclass(frozen=True)
class FolderReport:
    """Result of the inspection of a folder of logs."""

    pipeline: str
    """Name of the drafted pipeline."""
    block: dict[str, Any]
    """The `source` block that reads the folder."""
    days: tuple[date, ...]
    sampled: dict[date, int]
    """Days that were inspected → number of rows."""
    unread: dict[str, int]
    """Reason why rows of the sample could not be read → number of rows."""
    columns: list[ColumnSummary]
    found: InferredRoles
    yaml: str
    """Drafted pipeline; incomplete if roles are missing."""

    @property
    def gaps(self) -> list[date]:
        """Missing days between the first and the last."""
        present, step = set(self.days), STEPS[unit_of(self.block)]
        span = range((self.days[-1] - self.days[0]) // step)
        return [day for at in span if (day := self.days[0] + at * step) not in present]

    def meaning(self, column: str) -> list[str]:
        """Detected uses of a column: its roles, label, time of the label, or outcome."""
        findings = self.found
        roles = [role for role in ROLES if findings.roles.get(role) == column]
        if column == findings.label:
            roles.append("label")
        if column == findings.event_time:
            roles.append("time of the label")
        elif column in findings.outcomes:
            roles.append("outcome")
        return roles

    def to_json(self) -> dict[str, Any]:
        """Return the report as `--json` prints it."""
        findings = self.found
        return {
            "pipeline": self.pipeline,
            "source": self.block,
            "days": [day.isoformat() for day in self.days],
            "gaps": [day.isoformat() for day in self.gaps],
            "sampled": {day.isoformat(): rows for day, rows in self.sampled.items()},
            "unread": self.unread,
            "columns": [
                {
                    "name": column.name,
                    "type": column.type,
                    "kind": column.kind,
                    "nulls": column.nulls,
                    "distinct": column.distinct,
                    "examples": list(column.examples),
                    "seems": self.meaning(column.name),
                }
                for column in self.columns
            ],
            "roles": {
                role: {"column": name, "why": findings.reasons.get(role, "")}
                for role, name in findings.roles.items()
            },
            "anonymous": {
                "share": findings.anonymous.share,
                "values": dict(findings.anonymous.values),
            },
            "missing": findings.missing,
            "label": findings.label,
            "labels": [
                {
                    "column": candidate.column,
                    "kind": candidate.kind,
                    "rate": candidate.rate,
                    "positives": candidate.positives,
                }
                for candidate in findings.labels
            ],
            "event_time": findings.event_time,
            "outcomes": findings.outcomes,
            "clocks": [
                {
                    "column": clock.column,
                    "inside_day": clock.inside,
                    "zone": clock.zone,
                    "inside_day_of_zone": clock.inside_zone,
                    "alike": list(clock.alike),
                    "future": clock.future,
                }
                for clock in findings.clocks
            ],
            "request": findings.request,
            "predictions": findings.predictions,
            "absent": {
                name: [day.isoformat() for day in days] for name, days in findings.absent.items()
            },
            "repeated_keys": findings.repeated,
            "repeated_positives": findings.repeated_positives,
            "yaml": self.yaml,
        }


def check_folder(folder: str, cache: Path, name: str = "") -> FolderReport:
    """Inspect the oldest, the middle and the newest day of a folder.

    Args:
        folder: Folder of daily files, local or gs://, s3:// or bq://; or the parent of the folders
            `impressions`, `clicks` and `conversions`.
        cache: Folder for downloads of sources.
        name: Name of the drafted pipeline; empty: derived from the folder's name.

    Raises:
        MissingDataError: The folder has no day, or no readable row.
        CorruptDataError: A file cannot be read, or files disagree on a column's type.
    """
    streams = {stream: source_block(path, cache) for stream, path in stream_folders(folder).items()}
    return _report(folder, cache, name, streams)


def _report(
    folder: str,
    cache: Path,
    name: str,
    streams: Mapping[str, dict[str, Any]],
    days: tuple[str, str] = ("", ""),
    as_text: tuple[str, ...] = (),
) -> FolderReport:
    """Inspect a folder, or the streams that it consists of.

    Args:
        folder: See `check_folder`.
        cache: See `check_folder`.
        name: See `check_folder`.
        streams: `source` block of each stream; empty: the folder has no streams.
        days: Column that gives the days, and why; empty: the names of files do, or it is unknown.
        as_text: Columns to read as text, since files disagree on their types.
    """
    block = events_block(streams, cache) if streams else source_block(folder, cache)
    if days[0]:
        block = {**block, "day_column": days[0]}
    if as_text:
        block = {**block, "types": dict.fromkeys(as_text, "string")}
    typed = TypeAdapter(SourceBlock).validate_python(block)
    whole = open_source(typed, cache)
    known = whole.days() or ()
    if isinstance(whole, JoinsEvents):  # the events of the newest days are not complete yet
        known = tuple(day for day in known if not whole.not_there(day))
    if not streams and (weeks := weeks_of(block, known, cache)):
        block = {**block, **weeks}
        typed = TypeAdapter(SourceBlock).validate_python(block)
        whole = open_source(typed, cache)
        known = whole.days() or ()
    if not known and not streams and (column := time_column(block, cache)):
        block = {**block, "day_column": column}
        typed = TypeAdapter(SourceBlock).validate_python(block)
        whole = open_source(typed, cache)
        known = whole.days() or ()
    if not known:
        raise MissingDataError(
            "no file of the folder belongs to a day, and no column is named like a time",
            where=folder,
            hint="set source.day_column to the column with the time of each row; or name "
            f"days {SPELLED}",
        )
    chosen = sorted({known[0], known[len(known) // 2], known[-1]})
    # Types of text files require reading all of a file; those of others only its metadata.
    kinds = {part["kind"] for part in (block, *streams.values())}
    is_read = "csv" in kinds or folder.startswith(REMOTE)
    source = open_source(typed, cache, chosen if is_read else known)
    tables: list[pa.Table] = []
    unread: dict[str, int] = {}
    sampled: dict[date, int] = {}
    try:
        for day in chosen:
            rows, reasons = first_rows(source.batches(day))
            for reason in reasons:
                unread[reason] = unread.get(reason, 0) + 1
            if rows is not None and len(rows):
                tables.append(rows)
                sampled[day] = len(rows)
    except TypeConflictError as error:
        if streams or not error.column or error.column in as_text:
            raise
        return _report(folder, cache, name, streams, days, (*as_text, error.column))
    if not tables:
        raise MissingDataError(
            f"no row could be read: {', '.join(unread) or 'the days are empty'}",
            where=folder,
            hint="check the newest file",
        )
    sample = pa.concat_tables(tables, promote_options="permissive")
    columns = summarize(sample)
    if not streams and (streams := mixed_streams(block, columns)):
        return _report(folder, cache, name, streams)
    brought = defaults_of(block)
    format_roles: dict[str, str | None] = {}
    if streams:
        format_roles = {**brought["columns"], "label": brought["label"]["column"]}
    elif "layout" in block or block["kind"] == "kuairand":
        format_roles = {**Columns().model_dump(), **brought.get("columns", {})}
        format_roles["label"] = brought.get("label", {}).get("column", "click")
        if block["kind"] == "kuairand":
            format_roles |= {"item": "video_id", "label": "is_click"}
    findings = find_roles(columns, day_numbers(sampled), format_roles)
    if not streams and not days[0] and (why := _wrong_names(block, findings, chosen, cache)):
        return _report(folder, cache, name, streams, (findings.roles["time"], why), as_text)
    outcomes = source.meaning.outcomes & {summary.name for summary in columns}
    for column in sorted(outcomes - {findings.label, findings.event_time}):
        findings.outcomes.setdefault(
            column, "the format says that it is known only after the impression"
        )
    if block.get("day_column"):  # its times then cannot tell the zone of the days
        findings.clocks = []
        if findings.roles.get("time") == block["day_column"]:
            findings.reasons["time"] = days[1] or (
                "gives the day of each row; set source.time_zone if it is not in UTC"
            )
    has_more = not streams and unit_of(block) == "day" and has_hours(block, cache)
    name = name or pipeline_name(folder)
    text = draft(name, block, columns, findings, known, has_hours=has_more)
    return FolderReport(name, block, tuple(known), sampled, unread, columns, findings, text)


def _wrong_names(
    block: dict[str, Any], findings: InferredRoles, days: Sequence[date], cache: Path
) -> str:
    """Return why the days in the names of files are not those of the rows; empty if they are."""
    time = findings.roles.get("time", "")
    clock = next((clock for clock in findings.clocks if clock.column == time), None)
    if clock is None or rank_of(time, "time") is None or block["kind"] not in SUFFIXES:
        return ""
    if unit_of(block) != "day" or {"layout", "day_column"} & block.keys():
        return ""
    if block["folder"].startswith(REMOTE):  # every object would have to be read
        return ""
    if clock.inside_zone < LEAST_INSIDE:
        return (
            f"gives the day of each row: only {clock.inside:.1%} of its times are on the day in"
            " the name of their file"
        )
    if not clock.is_local:
        return ""
    times = []
    for zone in ("UTC", clock.zone):
        typed = TypeAdapter(SourceBlock).validate_python({**block, "time_zone": zone})
        rows, _ = first_rows(open_source(typed, cache, days).batches(days[-1]))
        times.append(None if rows is None else as_time(rows[time], zone))
    if times[0] is None or times[0].equals(times[1]):
        return ""  # they state their zone
    return (
        f"gives the day of each row: the days of the files are those of {clock.zone}, but its"
        " times, which state no zone, are in UTC"
    )


def pipeline_name(folder: str) -> str:
    """Derive a pipeline name from the name of a folder."""
    last = folder.rpartition(".")[2] if folder.startswith(BIGQUERY) else Path(folder).resolve().name
    plain = re.sub(r"[^a-z0-9]+", "_", last.lower()).strip("_")
    plain = plain if re.match(r"[a-z]", plain) else f"logs_{plain}"
    return plain[:40].rstrip("_")


def is_complete(report: FolderReport) -> bool:
    """Return whether the drafted YAML has every role that a night needs."""
    return not report.found.missing
