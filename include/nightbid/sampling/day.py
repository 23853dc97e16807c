"""Samples one day of logs to rows for training: computed once, shared by all of its nights.

The output of a day is `rows.parquet`, `quarantine.parquet` if rows could not be parsed,
`profile.json` of all parsed rows, and `some_rows.parquet`, a stable sample of whole rows. A day of
several units has files per unit, `rows-00000.parquet` and so on. If negatives are downsampled, a
training day's output differs from that of the same day for evaluation.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nightbid.config.event_source import EventsSource
from nightbid.counts import counted
from nightbid.data.source import SplittableSource, WholeDay
from nightbid.data.user_keys import UserKeyHasher
from nightbid.errors import CorruptDataError
from nightbid.night.days import DayKey, DayOutput, DayResult, versions_of
from nightbid.night.source import code_of
from nightbid.partitions import HourPartition
from nightbid.profile import Profile
from nightbid.profile.rows import RowSample
from nightbid.sampling.as_read import BATCHES, OTHERS, is_as_read, leave_out
from nightbid.sampling.row_files import (
    ASIDE,
    PROFILE,
    ROWS,
    SOME,
    RowFile,
    RowWriter,
    numbered,
    row_files,
)
from nightbid.sampling.rows import THINNED, positive_keys, thinned
from nightbid.sampling.units import COUNT, KEYS, LOST, NO_KEYS, DayRowCounts, DayUnit, sample_unit
from nightbid.schema import KEY
from nightbid.storage.verify import link_or_copy

if TYPE_CHECKING:
    from nightbid.config.pipeline import PipelineSpec, Split
    from nightbid.data.source import Source, UnitOfLogs

Keys = npt.NDArray[np.int64]
KIND = "sample"
LIBRARIES = ("numpy", "pandas", "pyarrow")
"""Libraries that compute the rows of a day."""
LARGEST_GROUP = 1 << 20
"""Size in rows from which a batch is split into several row groups."""
KEYS_AT_ONCE = 1 << 24
"""Number of keys to search for duplicates at once, which takes about 500 MB."""
UNITS = ".units"
"""Folder of sampled units, until their day is assembled."""
NOT_OF_ROWS = ("distribution", "young_days", "delay_by")
"""Keys of `label` that affect only how its rows are learned."""
NIGHTLY: dict[str, Any] = {
    **dict.fromkeys(("faults", "folder", "outcomes"), True),
    **{stream: {"folder", "outcomes"} for stream in EventsSource.streams},
}
"""Keys of `source` that state where days are or how they are used, not what they contain."""


def key_of(
    source: Source,
    spec: PipelineSpec,
    split: Split,
    day: date,
    digest: Callable[[Path], str],
    until: int | None = None,
) -> DayKey:
    """Build the key of a day's sampled rows.

    Args:
        source: Source opened with the window over which column types were determined.
        spec: Settings of the pipeline, of which `source`, `columns`, `label` and `sampling` count.
        split: Split of the day; negatives are downsampled only in those of `THINNED`.
        day: Day to sample.
        digest: Returns the digest of a log file.
        until: See `DayUnit`.

    Raises:
        DataError: The day's files cannot be read.
    """
    rate = spec.sampling.negative_rate if split in THINNED else 1.0

    def text(block: Any, leave_out: Mapping[str, Any] | None = None) -> str:
        return json.dumps(block.model_dump(mode="json", exclude=leave_out), sort_keys=True)

    return DayKey(
        KIND,
        day,
        {
            **source.identity(day, digest),
            **({"user_key": keys.fingerprint} if (keys := UserKeyHasher.of(spec)) else {}),
            "source": text(spec.source, NIGHTLY),
            "columns": text(spec.columns),
            "label": text(spec.label, dict.fromkeys(NOT_OF_ROWS, True)),
            **({} if until is None else {"until": str(until)}),
            "sampling": json.dumps({"negative_rate": rate}),
            "code": code_of((__name__, type(source).__module__)),
            "libraries": versions_of(LIBRARIES),
        },
    )


def make(
    folder: Path,
    source: Source,
    spec: PipelineSpec,
    split: Split,
    day: date,
    until: int | None = None,
) -> DayResult:
    """Sample one day in this process, unit by unit.

    Args:
        folder: New, empty local folder.
        source: Source of the logs.
        spec: Settings of the pipeline.
        split: See `key_of`.
        day: Day to sample.
        until: See `DayUnit`.

    Raises:
        MissingDataError: The day or one of its columns is missing.
        CorruptDataError: The day is empty or unreadable, or the label is not binary.
    """
    units = units_of(source, day, split, WholeDay(day, source), until)
    folders = [folder / UNITS / unit.name for unit in units]
    for unit, unit_folder in zip(units, folders, strict=True):
        unit_folder.mkdir(parents=True)
        sample_unit(unit_folder, unit, spec)
    assembled = assemble(folder, folders, day)
    shutil.rmtree(folder / UNITS)
    return assembled


def units_of(
    source: Source, day: date, split: Split, whole: WholeDay, until: int | None = None
) -> list[DayUnit]:
    """Split a day into units, based on its files only.

    Args:
        source: Source of the logs.
        day: Day to split.
        split: See `key_of`.
        whole: The day as one unit, for sources that are not split.
        until: See `DayUnit`.
    """
    logs = (source.units(day) if isinstance(source, SplittableSource) else ()) or (whole,)
    return day_units(source, day, split, logs, until=until)


def day_units(
    source: Source,
    day: date,
    split: Split,
    logs: Sequence[UnitOfLogs],
    *,
    is_keyed: bool = False,
    until: int | None = None,
) -> list[DayUnit]:
    """Number the units of a day.

    Args:
        source: Source of the logs.
        day: Day of the units.
        split: See `key_of`.
        logs: Source of the rows of each unit.
        is_keyed: Whether user ids are already keyed.
        until: See `DayUnit`.
    """
    truth = dict(source.meaning.truth)
    return [
        DayUnit(split, day, number, len(logs), unit_logs, truth, is_keyed, until)
        for number, unit_logs in enumerate(logs)
    ]


def assemble(folder: Path, units: Sequence[Path], day: date) -> DayResult:
    """Assemble a day from its sampled units.

    Args:
        folder: New, empty local folder.
        units: Folders of the units, in order; their files are moved.
        day: Day of the units.

    Raises:
        CorruptDataError: The day is empty, or none of its rows can be read.
    """
    counts = [DayRowCounts.from_json(json.loads((unit / COUNT).read_text())) for unit in units]
    lost = [np.load(unit / LOST) for unit in units if len(units) > 1]
    for number, keys in repeated_keys(units).items():
        lost.append(_leave_out(units[number] / ROWS, keys, counts[number]))
        leave_out(units[number])
    count = counts[0]
    for unit_count in counts[1:]:
        count.add(unit_count)
    if len(units) > 1:
        count.repeated_positives = _count_lost(units, np.unique(np.concatenate(lost)))
    if count.read == 0:
        kind = "hour" if isinstance(day, HourPartition) else "day"
        raise CorruptDataError(
            f"the {kind} is empty",
            where=f"logs of {day}",
            hint=f"load the {kind} again, or use another date",
        )
    if count.quarantined == count.read:
        raise CorruptDataError(
            f"none of {counted(count.read, 'row')} can be read:"
            f" {listed(count.reasons, count.examples)}",
            where=f"logs of {day}",
            hint="name the right columns in `columns` and `label`, or fix the logs",
        )
    metrics = {"count": asdict(count), "units": len(units)}
    for number, unit in enumerate(units):
        for name in (ROWS, ASIDE, OTHERS, BATCHES):
            if (unit / name).exists():
                shutil.move(unit / name, folder / numbered(name, number, len(units)))
    if len(units) == 1:
        for name in (PROFILE, SOME):
            if (units[0] / name).exists():
                shutil.move(units[0] / name, folder / name)
        return DayResult(metrics, count.to_rows())
    profile, sample = Profile(), RowSample()
    for unit in units:
        profile = profile.merge(Profile.load(unit / PROFILE))
        if (unit / SOME).exists():
            with RowFile(unit / SOME) as file:
                for rows in file.tables():
                    sample = sample.add(rows)
    profile.save(folder / PROFILE)
    sample.save(folder / SOME)
    return DayResult(metrics, count.to_rows())


def repeated_keys(units: Sequence[Path]) -> dict[int, Keys]:
    """Find keys that already occur in an earlier unit, whose row is kept.

    Reads the sorted keys of all units, one range at a time.

    Returns:
        Number of a unit → its repeated keys, int64, sorted.
    """
    if len(units) < 2:
        return {}
    keys = [np.load(unit / KEYS, mmap_mode="r") for unit in units]
    ranges = max(1, -(-sum(map(len, keys)) // KEYS_AT_ONCE))
    # Keys are hashes, so equal ranges of values hold about equally many.
    bounds = [-(2**63) + 2**64 * at // ranges for at in range(1, ranges)]
    starts = [
        [0, *np.searchsorted(unit_keys, bounds).tolist(), len(unit_keys)] for unit_keys in keys
    ]
    repeated: dict[int, list[Keys]] = {}
    for at in range(ranges):
        parts = [
            np.asarray(unit_keys[start[at] : start[at + 1]])
            for unit_keys, start in zip(keys, starts, strict=True)
        ]
        numbers = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        values = np.concatenate(parts)
        order = np.argsort(values, kind="stable")
        again = np.flatnonzero(values[order][1:] == values[order][:-1]) + 1
        for number in np.unique(numbers[order[again]]).tolist():
            repeats = order[again][numbers[order[again]] == number]
            repeated.setdefault(number, []).append(values[repeats])
    return {number: np.concatenate(pieces) for number, pieces in sorted(repeated.items())}


def _leave_out(path: Path, keys: Keys, count: DayRowCounts) -> Keys:
    """Rewrite the rows of a unit without those of some keys; return those with label 1."""
    positive = [NO_KEYS]
    temporary = path.with_name(f".{path.name}")
    count.repeated += len(keys)
    count.written, count.weight, count.positives = 0, 0.0, 0.0
    writer = RowWriter(temporary)
    try:
        with RowFile(path) as file:
            for rows in file.tables():
                repeats = np.isin(np.asarray(rows[KEY]), keys)
                positive.append(positive_keys(rows, repeats))
                rows = rows.filter(pa.array(~repeats))
                writer.write(rows)
                count.add_kept(rows)
    finally:
        writer.close()
    os.replace(temporary, path)
    return np.concatenate(positive)


def _count_lost(units: Sequence[Path], keys: Keys) -> int:
    """Count keys without a row with label 1."""
    for path in (unit / ROWS for unit in units):
        if len(keys) and path.exists():
            with RowFile(path) as file:
                for rows in file.tables():
                    keys = np.setdiff1d(keys, positive_keys(rows))
    return len(keys)


def make_thinner(folder: Path, whole: DayOutput, spec: PipelineSpec) -> DayResult | None:
    """Derive a training day from all rows of the day: same result as `make`, at lower cost.

    Args:
        folder: New, empty local folder.
        whole: Output of the day without downsampling.
        spec: Settings of the pipeline.

    Returns:
        The derived day; None if the batches of the logs cannot be identified in the file.
    """
    before = DayRowCounts.from_json(whole.manifest.metrics["count"])
    count = replace(before, written=0, weight=0.0, positives=0.0)
    files = row_files(whole.folder, ROWS)
    for path in files:
        with RowFile(path) as file:
            if file.largest >= LARGEST_GROUP:
                return None
    for path in files:
        writer = RowWriter(folder / path.name)
        try:
            with RowFile(path) as file:
                for table in file.tables():
                    rows = thinned(table, spec)
                    writer.write(rows)
                    count.add_kept(rows)
        finally:
            writer.close()
    names = {path.name for path in files}
    for entry in whole.manifest.files:
        if entry.path not in names and not is_as_read(entry.path):
            link_or_copy(whole.folder / entry.path, folder / entry.path)
    return DayResult({"count": asdict(count)}, count.to_rows())


def listed(reasons: dict[str, int], examples: dict[str, str]) -> str:
    """List the most frequent reasons of a quarantine, with an example of each."""
    worst = sorted(reasons.items(), key=lambda pair: -pair[1])[:3]
    return ", ".join(
        f"{reason} ({counted(rows, 'row')}"
        + (f", for example {examples[reason]})" if reason in examples else ")")
        for reason, rows in worst
    )
