"""The days of a night's window: planned, sampled or found, and linked into the night's output."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from nightbid.config.pipeline import Split, named_columns
from nightbid.counts import counted
from nightbid.data.source import Source, WholeDay
from nightbid.errors import DataError
from nightbid.night.days import (
    MANIFEST,
    DayKey,
    DayOutput,
    DayResult,
    day_folder,
    day_output,
    known_output,
)
from nightbid.night.task import StageTask
from nightbid.sampling.as_read import is_slow, sampled_elsewhere, units_as_read
from nightbid.sampling.day import UNITS, assemble, day_units, key_of, make, make_thinner, units_of
from nightbid.sampling.delays import end_of
from nightbid.sampling.engine import sampled
from nightbid.sampling.row_files import ASIDE, PROFILE, ROWS, SOME, row_files
from nightbid.sampling.units import DayUnit
from nightbid.storage.digests import kept_digest
from nightbid.storage.verify import link_or_copy


@dataclass(frozen=True)
class WindowDay:
    """A day of the window, and how to get its rows."""

    split: Split
    day: date
    key: DayKey
    whole_key: DayKey
    """Key of the day without downsampling; same as `key` if the labels are not final."""
    until: int | None = None
    """See `DayUnit`."""
    units: tuple[DayUnit, ...] = ()
    """Units to sample; empty if the day exists, or can be derived from the whole one."""
    rows_of: str = ""
    """Pipeline whose sampled day is read instead of the logs; empty: the logs are read."""


def _planned(
    task: StageTask, source: Source, split: Split, day: date, whole: WholeDay
) -> WindowDay:
    until = end_of(task.night.date, task.spec) if split == "young" else None
    key, whole_key = (
        key_of(source, task.spec, name, day, lambda path: kept_digest(path, task.cache), until)
        for name in (split, "evaluate" if until is None else split)
    )
    if any(
        (day_folder(task.workspace, day_key) / MANIFEST).exists() for day_key in (key, whole_key)
    ):
        return WindowDay(split, day, key, whole_key, until)
    slow = is_slow(task.spec.source)
    if earlier := sampled_elsewhere(task.workspace, key) if slow else None:
        manifest, folder = earlier
        rows = units_as_read(manifest, folder)
        units = day_units(source, day, split, rows, is_keyed=True, until=until)
        return WindowDay(split, day, key, whole_key, until, tuple(units), manifest.pipeline)
    units = units_of(source, day, split, whole, until)
    return WindowDay(split, day, key, whole_key, until, tuple(units))


def _plan(
    task: StageTask, source: Source, window: list[tuple[Split, date]]
) -> tuple[list[WindowDay], DataError | None]:
    """Plan all days up to the first that cannot be read; also return that error, if any."""
    opened = task.spec.source, task.cache, tuple(day for _, day in window), named_columns(task.spec)
    days = []
    for split, day in window:
        try:
            days.append(_planned(task, source, split, day, WholeDay(day, source, opened)))
        except DataError as error:  # raised later, after the days before it are done
            return days, error
    return days, None


def units_to_sample(
    task: StageTask, source: Source, window: list[tuple[Split, date]]
) -> list[DayUnit]:
    """List the units of days that have to be sampled.

    Raises:
        DataError: A day cannot be read.
    """
    days, failed = _plan(task, source, window)
    if failed:
        raise failed
    return [unit for day in days for unit in day.units]


def sampled_days(
    task: StageTask, source: Source, window: list[tuple[Split, date]]
) -> Iterator[tuple[WindowDay, DayOutput]]:
    """Sample or find the rows of each day, in order."""
    scratch = task.output / UNITS
    days, failed = _plan(task, source, window)
    units = [unit for day in days for unit in day.units]

    def report(finished: int) -> None:
        share = finished / max(len(units), 1)
        of = f"{counted(len(units), 'unit')} of {counted(len(window), 'day')}"
        task.progress(share, f"{finished} of {of} sampled")

    with closing(sampled(units, task.spec, scratch, report)) as finished:
        for number, day in enumerate(days):
            if not units:
                task.progress(number / len(window), f"{day.day} → {day.split}")
            for _ in day.units:
                next(finished)
            yield day, _placed(task, source, day)
    shutil.rmtree(scratch, ignore_errors=True)
    if failed:
        raise failed


def _placed(task: StageTask, source: Source, day: WindowDay) -> DayOutput:
    """Sample or find the rows of a day, and link them into the night's output."""
    units = [task.output / UNITS / unit.name for unit in day.units]

    def sampled(folder: Path) -> DayResult:
        if units and all(unit.exists() for unit in units):
            assembled = assemble(folder, units, day.day)
            for unit in units:
                shutil.rmtree(unit)
            return assembled
        is_other = day.whole_key.digest != day.key.digest
        whole = known_output(task.workspace, day.whole_key) if is_other else None
        thinner = make_thinner(folder, whole, task.spec) if whole else None
        return thinner or make(folder, source, task.spec, day.split, day.day, day.until)

    output = day_output(
        task.workspace,
        day.key,
        sampled,
        pipeline=task.spec.pipeline,
        run_id=task.run_id,
    )
    at = f"dt={day.day}"
    # Young days' labels change from night to night, so gates do not judge them.
    targets = {} if day.split == "young" else {PROFILE: f"profile/{at}.json"}
    if day.split == "evaluate":
        targets[SOME] = f"rows/{at}.parquet"
    for name, place_ in ((ROWS, f"split={day.split}"), (ASIDE, "quarantine")):
        for number, path in enumerate(row_files(output.folder, name)):
            targets[path.name] = f"{place_}/{at}/part-{number:05d}.parquet"
    for name, target in targets.items():
        if (output.folder / name).exists():
            link_or_copy(output.folder / name, task.output / target)
    return output
