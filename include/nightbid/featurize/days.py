"""Fits features by day: statistics of a day are stored, and a night merges those of its window.

A statistic depends on the bytes of one day's sampled rows, not on a night: the next night computes
only those of its new day. The fitted features are byte for byte those of one pass over all rows.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import apache_beam as beam

from nightbid.counts import counted
from nightbid.errors import CorruptDataError, WorkspaceError
from nightbid.features.fitted import Definition, FittedFeatures
from nightbid.features.learn import columns_taught, depends_on, learn, learning_features
from nightbid.features.statistics import Statistic
from nightbid.features.statistics_files import load_merged, save
from nightbid.featurize.groups import Group
from nightbid.featurize.passes import SPILL_ABOVE, MergeStatistics, PartialStatistics, Pass
from nightbid.featurize.summary import check_rows
from nightbid.night.days import DayKey, DayResult, day_output, days_folder, versions_of
from nightbid.night.key import digest_of
from nightbid.night.manifest import Manifest
from nightbid.night.source import code_of
from nightbid.night.task import StageTask
from nightbid.partitions import partition_of
from nightbid.storage.files import is_local
from nightbid.storage.verify import link_or_copy
from nightbid.storage.workspace import fetch, inode_of, read_manifest, set_aside

log = logging.getLogger(__name__)
KIND = "learn"
LIBRARIES = ("numpy", "pandas", "pyarrow")
MOST_NAMES = 5
"""Maximum number of features that a reason names; further ones are counted."""
CODE = ("nightbid.features.learn", "nightbid.features.statistics_files")


@dataclass
class _DayToLearn:
    """A day, with the statistics to learn from its rows and those already known."""

    split: str
    day: str
    groups: list[Group]
    depends_on: Mapping[str, str]
    wanted: dict[str, str]
    """Statistic → a feature that uses it."""
    known: dict[str, Path] = field(default_factory=dict)
    """Statistic → its file."""
    used: set[str] = field(default_factory=set)
    """Keys of the outputs that hold the statistics."""
    damaged: bool = False

    @property
    def missing(self) -> dict[str, str]:
        return {name: feature for name, feature in self.wanted.items() if name not in self.known}

    @property
    def family(self) -> str:
        return digest_of([self.day, dict(self.depends_on)])[:16]


@dataclass(frozen=True)
class LearnedStatistics:
    """Summary of what was learned from the days of a night."""

    made: dict[str, str]
    """Day → what was learned now and why; days without new statistics are absent."""
    days: int
    """Number of days with statistics."""
    outputs: dict[str, list[str]]
    """Day → keys of the outputs that hold its statistics."""


class LearnMissing(beam.DoFn):  # type: ignore[misc]
    """DoFn: row group → day, and the missing statistics of its features."""

    def __init__(self, definition: Definition, missing: Mapping[str, tuple[str, ...]]) -> None:
        self._definition = definition
        self._missing = missing

    def process(self, group: Group) -> Iterator[tuple[str, PartialStatistics]]:
        """Compute the statistics of one row group."""
        place = f"{group.split} {group.day}"
        features = {name: self._definition.features[name] for name in self._missing[place]}
        train = group.split == "train"
        rows = group.read(columns_taught(features, train=train))
        zone, user = self._definition.time_zone, self._definition.user_column
        statistics = learn(features, rows, train=train, zone=zone, user=user)
        yield place, PartialStatistics(len(rows), statistics)


class SaveDay(beam.DoFn):  # type: ignore[misc]
    """DoFn: day and merged statistics → a folder with a file for each."""

    def __init__(self, folder: str, rows: Mapping[str, int], names: Mapping[str, str]) -> None:
        self._folder = folder
        self._rows = rows
        self._names = names

    def process(self, element: tuple[str, PartialStatistics]) -> Iterator[str]:
        """Write the folder."""
        place, part = element
        check_rows("learned from", part.rows, self._rows[place])
        for feature, statistic in part.statistics.items():
            save(statistic, Path(self._folder) / place, self._names[feature])
        yield place


def learn_by_day(
    task: StageTask,
    groups: list[Group],
    definition: Definition,
    run_pass: Callable[[Pass], None],
    threads: int,
    limit: int = SPILL_ABOVE,
) -> LearnedStatistics:
    """Compute the missing statistics of a night's days, and write the fitted features.

    Args:
        task: Task of the stage; `fitted/` is written to its output.
        groups: All row groups of the night.
        definition: Definition of the features.
        run_pass: Runs a pass.
        threads: Number of threads per worker.
        limit: Maximum number of tokens of a vocabulary that a worker counts in memory.
    """
    days = [_known(task, day) for day in _days(task, groups, definition)]
    missing = [day for day in days if day.missing]
    scratch = task.output / ".learned"
    if missing:
        run_pass(_learning(missing, definition, scratch, threads, limit))
    notes = {day.day: _keep(task, day, scratch / f"{day.split} {day.day}") for day in missing}
    shutil.rmtree(scratch, ignore_errors=True)
    with ThreadPoolExecutor(threads) as pool:
        fitted = FittedFeatures.fit(definition, _merged(days, definition, pool.map), pool.map)
        fitted.save(task.output / "fitted", pool.map)
    outputs = {day.day: sorted(day.used) for day in days if day.used}
    return LearnedStatistics(notes, sum(bool(day.wanted) for day in days), outputs)


def _days(task: StageTask, groups: list[Group], definition: Definition) -> Iterator[_DayToLearn]:
    """Group the row groups by day, with the statistics to learn from each day."""
    files: dict[str, list[str]] = {}
    for entry in task.inputs["sample"].manifest.files:
        files.setdefault(entry.path.rpartition("/")[0], []).append(entry.digest)
    by_day: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        by_day.setdefault((group.split, group.day), []).append(group)
    for (split, day), day_groups in by_day.items():
        statistics: dict[str, str] = {}
        for name in learning_features(definition.features, train=split == "train"):
            statistics.setdefault(_statistic(name, definition), name)
        depends_on = {
            "rows": digest_of(files[f"split={split}/dt={day}"]),
            "code": code_of(CODE),
            "libraries": versions_of(LIBRARIES),
        }
        # The digests cover which rows have no user, since each of these is a user of its own.
        yield _DayToLearn(split, day, day_groups, depends_on, statistics)


def _statistic(name: str, definition: Definition) -> str:
    """Name of a feature's statistic; equal for features that share it."""
    return digest_of(depends_on(name, definition.features[name], definition.time_zone))[:16]


def _known(task: StageTask, day: _DayToLearn) -> _DayToLearn:
    """Find verified statistics that earlier nights computed from the same rows."""
    parent = days_folder(task.workspace, KIND, partition_of(day.day))
    if not parent.exists():
        return day
    for folder in sorted(parent.iterdir(), key=lambda path: path.name):
        if not folder.name.startswith(f"{day.family}-"):
            continue
        inode = inode_of(folder)
        try:
            manifest = read_manifest(folder)
            names = [name for name in _statistics(manifest) if name in day.missing]
            if names:
                local = fetch(folder, tuple(f"{name}." for name in names), manifest)
                paths = {name: local / file for name, file in _statistics(manifest).items()}
                day.known.update({name: paths[name] for name in names})
                day.used.add(folder.name)
        except CorruptDataError as error:
            if not is_local(folder):
                raise
            name = set_aside(folder, inode)
            day.damaged = True
            log.warning(
                "%s of %s: damaged output set aside as %s, made again: %s",
                KIND, day.day, name or "nothing", error.what,
            )  # fmt: skip
        except WorkspaceError:
            continue  # pruned after the listing
    return day


def _statistics(manifest: Manifest) -> dict[str, str]:
    return {entry.path.partition(".")[0]: entry.path for entry in manifest.files}


def _learning(
    days: list[_DayToLearn], definition: Definition, folder: Path, threads: int, limit: int
) -> Pass:
    missing = {f"{day.split} {day.day}": tuple(day.missing.values()) for day in days}
    rows = {f"{day.split} {day.day}": sum(group.rows for group in day.groups) for day in days}
    names = {feature: name for day in days for name, feature in day.missing.items()}
    return Pass(
        [group for day in days for group in day.groups],
        LearnMissing(definition, missing),
        MergeStatistics(str(folder / "counts"), limit),
        SaveDay(str(folder), rows, names),
        threads,
    )


def _keep(task: StageTask, day: _DayToLearn, learned: Path) -> str:
    """Store the learned statistics of a day in the workspace; returns why they were computed."""
    missing = day.missing
    depends_on = {**day.depends_on, "statistics": json.dumps(sorted(missing))}
    key = DayKey(KIND, partition_of(day.day), depends_on, family=day.family)

    if not learned.is_dir():
        check_rows("learned from", 0, sum(group.rows for group in day.groups))

    def move(folder: Path) -> DayResult:
        for path in sorted(learned.iterdir()):
            link_or_copy(path, folder / path.name)
        return DayResult({"features": sorted(missing.values())})

    output = day_output(task.workspace, key, move, pipeline=task.spec.pipeline, run_id=task.run_id)
    for name, file in _statistics(output.manifest).items():
        day.known[name] = output.folder / file
    day.used.add(output.key)
    if day.damaged:
        return "its output was damaged"
    if len(missing) == len(day.wanted):
        return "new"
    if len(missing) > MOST_NAMES:
        return f"{len(missing)} of {counted(len(day.wanted), 'statistic')}"
    return f"only {', '.join(sorted(missing.values()))}"


def _merged(
    days: list[_DayToLearn], definition: Definition, map_each: Callable[..., Iterator[Statistic]]
) -> dict[str, Statistic]:
    """Merge the statistics of all days; returns them by feature."""
    paths: dict[str, list[Path]] = {}
    for day in days:
        for name in day.wanted:
            paths.setdefault(name, []).append(day.known[name])
    merged = dict(zip(paths, map_each(load_merged, paths.values()), strict=True))
    return {
        name: merged[statistic]
        for name, feature in definition.features.items()
        if depends_on(name, feature) is not None
        and (statistic := _statistic(name, definition)) in merged
    }
