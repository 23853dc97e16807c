"""One day of logs as rows that can be trained on: made once, shared by every night of it.

The output of a day is `rows.parquet`, `quarantine.parquet` where rows could not be parsed,
`profile.json` of all parsed rows, and `some_rows.parquet`, a stable sample of whole rows. Of a day
of several units each has files of its own, `rows-00000.parquet` and so on. Where negatives are
sampled away, a training day is another output than the same day as it is evaluated.
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

from nightbid.config.sources import EventsSource
from nightbid.data.source import Splits, WholeDay
from nightbid.data.user_keys import UserKeys
from nightbid.errors import CorruptDataError
from nightbid.night.days import DayKey, DayOutput, Made, versions_of
from nightbid.night.source import code_of
from nightbid.partitions import Hour
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
from nightbid.sampling.rows import THINNED, thinned
from nightbid.sampling.units import COUNT, KEYS, DayCount, DayUnit, sample_unit
from nightbid.schema import KEY
from nightbid.storage.verify import link_or_copy

if TYPE_CHECKING:
    from nightbid.config.pipeline import PipelineSpec, Split
    from nightbid.data.source import Source, UnitOfLogs

Keys = npt.NDArray[np.int64]
KIND = "sample"
LIBRARIES = ("numpy", "pandas", "pyarrow")
"""What computes the rows of a day."""
LARGEST_GROUP = 1 << 20
"""Rows of a row group at which a batch is cut into several."""
KEYS_AT_ONCE = 1 << 24
"""Keys that are looked through at once for repeated ones: some 500 MB."""
UNITS = ".units"
"""Folder of sampled units, until their day is put together."""
NOT_OF_ROWS = ("distribution", "young_days", "delay_by")
"""Keys of `label` that say how its rows are learned."""
NIGHTLY: dict[str, Any] = {
    **dict.fromkeys(("faults", "folder", "outcomes"), True),
    **{stream: {"folder", "outcomes"} for stream in EventsSource.streams},
}
"""Keys of `source` that say where days lie or what they are used for, not what is in them."""


def key_of(
    source: Source,
    spec: PipelineSpec,
    split: Split,
    day: date,
    digest: Callable[[Path], str],
    until: int | None = None,
) -> DayKey:
    """Say what the rows of a day depend on.

    Args:
        source: opened with the window whose types were settled together.
        spec: the pipeline; of its blocks, `source`, `columns`, `label` and `sampling` count.
        split: negatives are sampled away in `history` and `train` only.
        day: which.
        digest: of a file of logs.
        until: see `DayUnit`.

    Raises:
        DataError: the day's files cannot be read.
    """
    rate = spec.sampling.negative_rate if split in THINNED else 1.0

    def text(block: Any, leave_out: Mapping[str, Any] | None = None) -> str:
        return json.dumps(block.model_dump(mode="json", exclude=leave_out), sort_keys=True)

    return DayKey(
        KIND,
        day,
        {
            **source.identity(day, digest),
            **({"user_key": keys.fingerprint} if (keys := UserKeys.of(spec)) else {}),
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
) -> Made:
    """Sample one day in this process, unit by unit.

    Args:
        folder: new and empty, on this machine.
        source: of the logs.
        spec: the pipeline.
        split: see `key_of`.
        day: which.
        until: see `DayUnit`.

    Raises:
        MissingDataError: the day or a column of it is absent.
        CorruptDataError: the day is empty or unreadable, or the label is not binary.
    """
    units = units_of(source, day, split, WholeDay(day, source), until)
    folders = [folder / UNITS / unit.name for unit in units]
    for unit, each in zip(units, folders, strict=True):
        each.mkdir(parents=True)
        sample_unit(each, unit, spec)
    made = assemble(folder, folders, day)
    shutil.rmtree(folder / UNITS)
    return made


def units_of(
    source: Source, day: date, split: Split, whole: WholeDay, until: int | None = None
) -> list[DayUnit]:
    """Cut a day into units, by its files alone.

    Args:
        source: of the logs.
        day: which.
        split: see `key_of`.
        whole: the day as one unit, for sources that are not cut.
        until: see `DayUnit`.
    """
    found = (source.units(day) if isinstance(source, Splits) else ()) or (whole,)
    return day_units(source, day, split, found, until=until)


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
        source: of the logs.
        day: which.
        split: see `key_of`.
        logs: where the rows of each are read from.
        is_keyed: ids of users are keyed already.
        until: see `DayUnit`.
    """
    truth = dict(source.meaning.truth)
    return [
        DayUnit(split, day, number, len(logs), each, truth, is_keyed, until)
        for number, each in enumerate(logs)
    ]


def assemble(folder: Path, units: Sequence[Path], day: date) -> Made:
    """Put the sampled units of a day together.

    Args:
        folder: new and empty, on this machine.
        units: their folders, in order; files of them are moved.
        day: which.

    Raises:
        CorruptDataError: the day is empty, or none of its rows can be read.
    """
    counts = [DayCount.from_json(json.loads((unit / COUNT).read_text())) for unit in units]
    for number, keys in repeated_keys(units).items():
        _leave_out(units[number] / ROWS, keys, counts[number])
        leave_out(units[number])
    count = counts[0]
    for each in counts[1:]:
        count.add(each)
    if count.read == 0:
        kind = "hour" if isinstance(day, Hour) else "day"
        raise CorruptDataError(
            f"the {kind} is empty",
            where=f"logs of {day}",
            hint=f"load the {kind} again, or take another date",
        )
    if count.quarantined == count.read:
        raise CorruptDataError(
            f"none of {count.read:,} rows can be read: {listed(count.reasons, count.examples)}",
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
        return Made(metrics, count.to_rows())
    profile, sample = Profile(), RowSample()
    for unit in units:
        profile = profile.merge(Profile.load(unit / PROFILE))
        if (unit / SOME).exists():
            with RowFile(unit / SOME) as file:
                for rows in file.tables():
                    sample = sample.add(rows)
    profile.save(folder / PROFILE)
    sample.save(folder / SOME)
    return Made(metrics, count.to_rows())


def repeated_keys(units: Sequence[Path]) -> dict[int, Keys]:
    """Find keys that an earlier unit has: its row is the first.

    Reads the sorted keys of all units, a range of them at a time.

    Returns:
        Number of a unit → its keys that are repeated, int64, sorted.
    """
    if len(units) < 2:
        return {}
    keys = [np.load(unit / KEYS, mmap_mode="r") for unit in units]
    ranges = max(1, -(-sum(map(len, keys)) // KEYS_AT_ONCE))
    # Keys are hashes: even ranges of their values hold about as many.
    bounds = [-(2**63) + 2**64 * at // ranges for at in range(1, ranges)]
    starts = [[0, *np.searchsorted(each, bounds).tolist(), len(each)] for each in keys]
    found: dict[int, list[Keys]] = {}
    for at in range(ranges):
        parts = [
            np.asarray(each[start[at] : start[at + 1]])
            for each, start in zip(keys, starts, strict=True)
        ]
        numbers = np.repeat(np.arange(len(parts)), [len(each) for each in parts])
        values = np.concatenate(parts)
        order = np.argsort(values, kind="stable")
        again = np.flatnonzero(values[order][1:] == values[order][:-1]) + 1
        for number in np.unique(numbers[order[again]]).tolist():
            mine = order[again][numbers[order[again]] == number]
            found.setdefault(number, []).append(values[mine])
    return {number: np.concatenate(each) for number, each in sorted(found.items())}


def _leave_out(path: Path, keys: Keys, count: DayCount) -> None:
    """Write the rows of a unit again without those of some keys."""
    beside = path.with_name(f".{path.name}")
    count.repeated += len(keys)
    count.written, count.weight, count.positives = 0, 0.0, 0.0
    kept = RowWriter(beside)
    try:
        with RowFile(path) as file:
            for rows in file.tables():
                rows = rows.filter(pa.array(~np.isin(np.asarray(rows[KEY]), keys)))
                kept.write(rows)
                count.add_kept(rows)
    finally:
        kept.close()
    os.replace(beside, path)


def make_thinner(folder: Path, whole: DayOutput, spec: PipelineSpec) -> Made | None:
    """Make a training day of the whole rows of the day: what `make` gives, for less.

    Args:
        folder: new and empty, on this machine.
        whole: the output of the day without sampling.
        spec: the pipeline.

    Returns:
        None where the batches that the logs came in cannot be told from the file.
    """
    before = DayCount.from_json(whole.manifest.metrics["count"])
    count = replace(before, written=0, weight=0.0, positives=0.0)
    files = row_files(whole.folder, ROWS)
    for path in files:
        with RowFile(path) as file:
            if file.largest >= LARGEST_GROUP:
                return None
    for path in files:
        kept = RowWriter(folder / path.name)
        try:
            with RowFile(path) as file:
                for table in file.tables():
                    rows = thinned(table, spec)
                    kept.write(rows)
                    count.add_kept(rows)
        finally:
            kept.close()
    names = {path.name for path in files}
    for each in whole.manifest.files:
        if each.path not in names and not is_as_read(each.path):
            link_or_copy(whole.folder / each.path, folder / each.path)
    return Made({"count": asdict(count)}, count.to_rows())


def listed(reasons: dict[str, int], examples: dict[str, str]) -> str:
    """Name the most frequent reasons of a quarantine, with an example of each."""
    worst = sorted(reasons.items(), key=lambda each: -each[1])[:3]
    return ", ".join(
        f"{reason} ({rows:,} rows"
        + (f", for example {examples[reason]})" if reason in examples else ")")
        for reason, rows in worst
    )
