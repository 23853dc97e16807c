"""Finds nights whose logs have since been corrected, or have arrived late."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightbid.arrival.contract import day_arrival
from nightbid.arrival.wait import accepted_lag, newest_day
from nightbid.config.pipeline import Night, PipelineSpec, named_columns
from nightbid.data.source import open_source
from nightbid.errors import CorruptDataError, NightbidError, WorkspaceError
from nightbid.night.attempts import ARRIVAL
from nightbid.night.days import days_folder
from nightbid.night.record import RunRecord, runs_of
from nightbid.partitions import partition_of
from nightbid.report import records
from nightbid.sampling.stage import with_known_history
from nightbid.storage.digests import kept_digest
from nightbid.storage.workspace import Workspace, read_manifest

CORRECTED, ARRIVED, GONE = "corrected", "arrived", "gone"


@dataclass(frozen=True)
class LateNight:
    """A night whose result would differ with the current logs."""

    run_id: str
    night: dt.date
    days: dict[str, str]
    """Day of logs → `corrected`, `arrived` or `gone` since the night read it."""
    overrides: tuple[str, ...]
    """Overridden settings of the run, without an accepted lag."""


def late_nights(
    spec: PipelineSpec, workspace: Workspace, cache: Path, nights: int = 30
) -> list[LateNight]:
    """Find the nights affected by late and corrected days, oldest first.

    If a night has several runs, the newest counts. Files with unchanged size and time are not read
    again.

    Args:
        spec: Settings of the pipeline.
        workspace: Workspace with the runs.
        cache: Folder of cached file digests.
        nights: Number of newest nights to check.
    """
    newest: dict[dt.date, RunRecord] = {}
    for run in runs_of(workspace, spec.pipeline):
        if run.head.spec:
            newest[run.date] = run
    source = open_source(spec.source, cache, (), named_columns(spec))
    known = source.days()
    logs: dict[dt.date, str | None] = {}

    def now_of(day: dt.date) -> str | None:
        if day not in logs:
            is_known = known is None or day in known
            logs[day] = (
                source.identity(day, lambda path: kept_digest(path, cache))["logs"]
                if is_known
                else None
            )
        return logs[day]

    late = []
    for night in sorted(newest)[-nights:]:
        run = newest[night]
        days: dict[str, str] = {}
        for day, before in _days_read(run):
            if (now := now_of(day)) != before:
                days[str(day)] = GONE if now is None else CORRECTED
        if (arrived := _arrived_since(spec, run, workspace, cache, known)) is not None:
            days[str(arrived)] = ARRIVED
        if days:
            lag = accepted_lag(run)
            others = tuple(override for override in run.head.overrides if override not in lag)
            late.append(LateNight(run.run_id, night, days, others))
    return late


def _days_read(run: RunRecord) -> Iterator[tuple[dt.date, str]]:
    """Yield the days that a night sampled, each with the digest of its logs at the time."""
    try:
        done = run.stage("sample")
    except (CorruptDataError, WorkspaceError):
        return
    manifest = records.manifest(run.workspace, done.uri) if done and done.uri else None
    outputs: dict[str, Any] = (manifest.metrics.get("day_outputs") or {}) if manifest else {}
    for name, key in outputs.items():
        day = partition_of(name)
        try:
            sampled = read_manifest(days_folder(run.workspace, "sample", day) / key)
        except (CorruptDataError, WorkspaceError):
            continue
        if "logs" in sampled.inputs:
            yield day, sampled.inputs["logs"]


def _arrived_since(
    spec: PipelineSpec,
    run: RunRecord,
    workspace: Workspace,
    cache: Path,
    known: tuple[dt.date, ...] | None,
) -> dt.date | None:
    """Day that a night lacked and that has since arrived, or None."""
    try:
        waited, sampled = run.stage(ARRIVAL), run.stage("sample")
    except (CorruptDataError, WorkspaceError):
        return None
    day = newest_day(spec, run.date)
    if waited is not None and waited.verdict != "pass":
        now = dt.datetime.now(dt.UTC)
        return day if day_arrival(spec, day, workspace, cache, now).is_complete else None
    if sampled is None or sampled.state != "failed" or known is None:
        return None
    try:
        night = with_known_history(spec, Night.of(spec, run.date), cache)
    except NightbidError:
        return None
    window = {*night.history, *night.train, *night.validate_, *night.evaluate}
    return day if "missing" in sampled.error and window <= set(known) else None
