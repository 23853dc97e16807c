"""Checks a day of logs against the pipeline's `arrival` block."""

from __future__ import annotations

import datetime as dt
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nightbid.clock import SKEW_SECONDS
from nightbid.config.arrival import Arrival
from nightbid.config.pipeline import PipelineSpec
from nightbid.counts import counted
from nightbid.data.folder import FolderLogs
from nightbid.data.places import Place
from nightbid.data.source import JoinsEvents, Source, open_source
from nightbid.errors import CorruptDataError, DataError, WorkspaceError
from nightbid.night.record import runs_of
from nightbid.partitions import end_of
from nightbid.report import records
from nightbid.storage.workspace import Workspace
from nightbid.time_parsing import as_time, local_time


@dataclass(frozen=True)
class DayArrival:
    """State of one day of logs."""

    day: dt.date
    found: tuple[str, ...]
    """Satisfied conditions, each as a short text."""
    missing: tuple[str, ...]
    """Conditions of the contract that are not satisfied, each as a short text."""

    @property
    def is_complete(self) -> bool:
        """Whether the night may start."""
        return not self.missing


def day_arrival(
    spec: PipelineSpec, day: dt.date, workspace: Workspace, cache: Path, now: dt.datetime
) -> DayArrival:
    """Check whether a day exists and satisfies the `arrival` block.

    Cheap conditions are checked first; rows are read only if these hold.

    Args:
        spec: Settings of the pipeline; without an `arrival` block the day only has to exist.
        day: Day of logs to check.
        workspace: Workspace with the earlier nights, from which the usual number of rows is taken.
        cache: Cache folder for downloads and for scans of large files.
        now: Current time, for `settled_minutes`.
    """
    contract = spec.arrival or Arrival()
    satisfied: list[str] = []
    missing: list[str] = []
    try:
        source = open_source(spec.source, cache, (day,))
        if (known := source.days()) is not None and day not in known:
            return DayArrival(day, (), ("the day has no file yet",))
        if isinstance(source, JoinsEvents) and (waits := source.not_there(day)):
            return DayArrival(
                day, ("the impressions have arrived",), (f"no {', no '.join(waits)}",)
            )
        if isinstance(source, FolderLogs):
            for ok, note in _files(contract, source.place, source.files(day), day, now):
                (satisfied if ok else missing).append(note)
        if not missing and (contract.min_rows_ratio is not None or contract.newest_time):
            for ok, note in _rows(spec, contract, source, day, workspace):
                (satisfied if ok else missing).append(note)
    except (DataError, WorkspaceError, OSError, pa.ArrowException) as error:
        # Days that are being written may be unreadable, and buckets temporarily unreachable.
        missing.append(str(error).splitlines()[0])
    return DayArrival(day, tuple(satisfied) or ("the day has arrived",), tuple(missing))


def _files(
    contract: Arrival, place: Place, files: list[Path], day: dt.date, now: dt.datetime
) -> Iterator[tuple[bool, str]]:
    root = place.root
    if contract.marker:
        name = contract.marker.replace("{day}", day.isoformat())
        folders = [root]
        if "{day}" not in contract.marker:
            above = {parent for path in files for parent in path.parents}
            folders = [folder for folder in above if root in folder.parents]
        exists = any(place.changed(folder / name) is not None for folder in folders)
        yield exists, f"{'marker' if exists else 'no file'} {name}"
    if not files:
        yield False, "the day has no file yet"
        return
    if contract.settled_minutes:
        newest = max(place.changed(path) or now.timestamp() for path in files)
        quiet = (now.timestamp() - newest) / 60
        ok = quiet >= contract.settled_minutes
        note = f"files unchanged for {max(quiet, 0):.0f} min"
        if quiet * 60 < -SKEW_SECONDS:
            note = (
                f"files from {-quiet / 60:.1f} hours in the future: the clock of this machine or of"
                " their writer is wrong"
            )
        elif not ok:
            note += f", of {contract.settled_minutes:g}"
        yield ok, note


def _rows(
    spec: PipelineSpec, contract: Arrival, source: Source, day: dt.date, workspace: Workspace
) -> Iterator[tuple[bool, str]]:
    """Yield whether the number of rows and the newest time are sufficient, each with a text."""
    count, newest = _count(spec, source, day, with_time=bool(contract.newest_time))
    if contract.min_rows_ratio is not None:
        usual = usual_rows(spec.pipeline, workspace, day)
        if usual is None:
            yield count > 0, f"{counted(count, 'row')}, no earlier night to compare with"
        else:
            ok = count >= contract.min_rows_ratio * usual
            yield (
                ok,
                f"{counted(count, 'row')}, usually {usual:,.0f}"
                + ("" if ok else f", at least {contract.min_rows_ratio:.0%} are required"),
            )
    if contract.newest_time:
        last = end_of(day, spec.partition) - dt.timedelta(minutes=1)
        due = dt.datetime.combine(last, dt.time.fromisoformat(contract.newest_time))
        ok = newest is not None and newest >= due
        note = "no row has a time" if newest is None else f"newest row of {newest:%H:%M}"
        yield ok, note + ("" if ok else f", {contract.newest_time} is required")


def _count(
    spec: PipelineSpec, source: Source, day: dt.date, *, with_time: bool
) -> tuple[int, dt.datetime | None]:
    """Number of rows of a day, and with `with_time` its newest time, in the source's zone."""
    is_parquet = isinstance(source, FolderLogs) and spec.source.kind in ("parquet", "bigquery")
    if is_parquet and not with_time:
        assert isinstance(source, FolderLogs)
        files = source.files(day)
        source.place.fetch(files)
        return sum(pq.read_metadata(path).num_rows for path in files), None
    count, newest = 0, None
    zone = getattr(spec.source, "time_zone", "UTC")
    end = end_of(day, spec.partition)
    for batch in source.batches(day):
        count += batch.num_rows
        if with_time and spec.columns.time in batch.schema.names:
            times = local_time(as_time(batch[spec.columns.time], zone), zone)
            # Times after the day's end come from a wrong clock and prove nothing.
            last = pc.max(times.filter(pc.less(times, end))).as_py()
            if last is not None:
                last = last.replace(tzinfo=None)
                newest = last if newest is None else max(newest, last)
    return count, newest


def usual_rows(pipeline: str, workspace: Workspace, day: dt.date) -> float | None:
    """Median rows of the earlier days in the newest sampled night; None if there is none."""
    for run in reversed(runs_of(workspace, pipeline)):
        try:
            done = run.stage("sample")
        except (CorruptDataError, WorkspaceError):
            continue
        if done is None or done.state != "done":
            continue
        if (manifest := records.manifest(workspace, done.uri)) is None:
            continue
        counts = [
            figures["read"]
            for name, figures in (manifest.metrics.get("days") or {}).items()
            if name < day.isoformat() and "read" in figures
        ]
        if counts:
            return float(statistics.median(counts))
    return None
