"""The two passes over row groups: fitting and transforming."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from upath import UPath

from nightbid.column_parsing import whole
from nightbid.config.features import Feature
from nightbid.features.fitted import Definition, FittedFeatures
from nightbid.features.key_statistics import DayCounts, KeyEvents
from nightbid.features.learn import columns_taught, learn
from nightbid.features.statistics import Statistic, TokenCounts, merge_all
from nightbid.features.unreadable import unreadable_values
from nightbid.featurize.coders import StatisticsCoder
from nightbid.featurize.groups import Group, encode_rows, written_beside
from nightbid.featurize.reuse import Base
from nightbid.featurize.summary import MergeSummaries, SaveSummary, Summary, check_rows
from nightbid.profile import Profile
from nightbid.schema import REASON, RESERVED

SPILL_ABOVE = 2_000_000
"""Default limit of tokens in memory per vocabulary, about 100 MiB."""
ALL = "all"
"""Key of the statistics of all rows."""


def sources_of(definition: Definition) -> list[str]:
    """Source columns that any feature reads."""
    return sorted(_sources(definition.features, definition.time))


def _sources(features: Mapping[str, Feature], time: str) -> set[str]:
    names = {time}
    for name, feature in features.items():
        names.update(feature.sources(name))
    return names


@dataclass(frozen=True)
class PartialStatistics:
    """Statistics of some rows, and the number of these rows."""

    rows: int = 0
    statistics: Mapping[str, Statistic] = field(default_factory=dict)

    def merge(self, other: PartialStatistics) -> PartialStatistics:
        """Merge with other rows."""
        return PartialStatistics(
            self.rows + other.rows, merge_all(self.statistics, other.statistics)
        )


beam.coders.registry.register_coder(PartialStatistics, StatisticsCoder)


class Learn(beam.DoFn):  # type: ignore[misc]
    """DoFn: row group → statistics of every feature, all under one key."""

    def __init__(self, definition: Definition) -> None:
        self._definition = definition

    def process(self, group: Group) -> Iterator[tuple[str, PartialStatistics]]:
        """Compute the statistics of one row group."""
        train = group.split == "train"
        rows = group.read(columns_taught(self._definition.features, train=train))
        definition = self._definition
        statistics = learn(
            definition.features,
            rows,
            train=train,
            zone=definition.time_zone,
            user=definition.user_column,
        )
        yield ALL, PartialStatistics(len(rows), statistics)


@beam.typehints.with_input_types(PartialStatistics)
@beam.typehints.with_output_types(PartialStatistics)
class MergeStatistics(beam.CombineFn):  # type: ignore[misc]
    """CombineFn: associative and commutative, so any bundling of row groups gives the same."""

    def __init__(self, spill: str, limit: int = SPILL_ABOVE) -> None:
        """Create the combiner.

        Args:
            spill: Folder for large statistics, shared by all workers.
            limit: Maximum number of tokens, or of keys and days, in memory.
        """
        self._spill = spill
        self._limit = limit

    def get_accumulator_coder(self) -> StatisticsCoder:
        """Coder of accumulators, for which Beam does not use its registry."""
        return StatisticsCoder()

    def create_accumulator(self) -> PartialStatistics:
        """Start with no rows."""
        return PartialStatistics()

    def add_input(
        self, accumulator: PartialStatistics, element: PartialStatistics
    ) -> PartialStatistics:
        """Add the rows of one group."""
        return self._bounded(accumulator.merge(element))

    def merge_accumulators(self, accumulators: Iterable[PartialStatistics]) -> PartialStatistics:
        """Add the rows of several bundles."""
        merged = PartialStatistics()
        for part in accumulators:
            merged = self._bounded(merged.merge(part))
        return merged

    def extract_output(self, accumulator: PartialStatistics) -> PartialStatistics:
        """Return the accumulator."""
        return accumulator

    def _bounded(self, part: PartialStatistics) -> PartialStatistics:
        statistics = {
            name: statistic.spill(UPath(self._spill), self._limit)
            if isinstance(statistic, TokenCounts | DayCounts | KeyEvents)
            else statistic
            for name, statistic in part.statistics.items()
        }
        return PartialStatistics(part.rows, statistics)


class SaveFitted(beam.DoFn):  # type: ignore[misc]
    """DoFn: merged statistics → folder of fitted features."""

    def __init__(
        self, definition: Definition, folder: str, spill: str, rows: int, threads: int
    ) -> None:
        self._definition = definition
        self._folder = folder
        self._spill = spill
        self._rows = rows
        self._threads = threads

    def process(self, element: tuple[str, PartialStatistics]) -> Iterator[str]:
        """Write the folder."""
        _, merged = element
        check_rows("learned from", merged.rows, self._rows)
        with ThreadPoolExecutor(self._threads) as pool:
            fitted = FittedFeatures.fit(self._definition, merged.statistics, pool.map)
            fitted.save(Path(self._folder), pool.map)
        shutil.rmtree(self._spill, ignore_errors=True)
        yield self._folder


class TransformGroup(beam.DoFn):  # type: ignore[misc]
    """DoFn: row group → a file of featurized rows, and a summary of them."""

    def __init__(self, fitted: str, output: str, threads: int, base: Base | None = None) -> None:
        self._base = base
        self._fitted_folder = fitted
        self._output = output
        self._threads = threads
        self._fitted: FittedFeatures | None = None

    def setup(self) -> None:
        """Load the fitted features, once per worker."""
        with ThreadPoolExecutor(self._threads) as pool:
            self._fitted = FittedFeatures.load(Path(self._fitted_folder), pool.map)

    def process(self, group: Group) -> Iterator[tuple[str, Summary]]:
        """Transform one row group."""
        assert self._fitted is not None
        path = Path(self._output) / group.target
        table, summary = transformed(self._fitted, group, self._base)
        if self._base:
            self._base.write(table, list(_names(self._fitted)), group, path)
        else:
            with written_beside(path) as place:
                encode_rows(table, place)
        yield group.split, summary


def transformed(
    fitted: FittedFeatures, group: Group, base: Base | None = None
) -> tuple[pa.Table, Summary]:
    """Featurize one row group.

    Args:
        fitted: Fitted features.
        group: Row group to featurize.
        base: An earlier output of the same rows, whose columns are not computed again; None: none.

    Returns:
        The rows with the reserved columns (with `base`: only the columns that it lacks), and a
        summary of the computed columns.
    """
    copied = base.features if base else frozenset[str]()
    computed = {
        name: feature for name, feature in fitted.definition.features.items() if name not in copied
    }
    reserved = set() if base else set(RESERVED)
    rows = group.read({*_sources(computed, fitted.definition.time), *reserved})
    inputs = fitted.transform(rows, copied)
    reserved_names = [
        name
        for name in RESERVED
        if name in reserved and name in rows.column_names and name != REASON
    ]
    columns = {name: whole(rows[name]) for name in reserved_names}
    names = [name for name in _names(fitted) if name in inputs.column_names]
    columns.update({name: whole(inputs[name]) for name in names})
    table = pa.table(columns)
    profile = base.profile(table, group) if base else Profile.of(table)
    unread = unreadable_values(computed, rows, fitted.definition.user_column)
    return table, Summary(profile, _outside(fitted, inputs), unread)


def _names(fitted: FittedFeatures) -> Iterator[str]:
    """Names of the model input columns, in order."""
    for model_input in fitted.schema.inputs:
        yield model_input.name
        if model_input.kind == "bag":
            yield f"{model_input.name}__weight"


def _outside(fitted: FittedFeatures, inputs: pa.Table) -> dict[str, tuple[int, int]]:
    counts = {}
    for name, buckets in fitted.oov_buckets.items():
        if name not in inputs.column_names:
            continue
        column = whole(inputs[name])
        ids = np.asarray(column.flatten() if pa.types.is_fixed_size_list(column.type)
                         else column)  # fmt: skip
        counts[name] = (int(((ids > 0) & (ids <= buckets)).sum()), int((ids > 0).sum()))
    return counts


@dataclass(frozen=True)
class Pass:
    """Work on each row group, merged by key: runs as a Beam pipeline, or in local threads."""

    groups: Sequence[Group]
    work: beam.DoFn
    """Row group → pairs of a key and a value to merge."""
    merge: beam.CombineFn
    save: beam.DoFn
    """Key and merged value → files."""
    threads: int = 1
    """Number of threads in this process, see `nightbid.featurize.runner.threads_of`."""

    def __call__(self, pipeline: beam.Pipeline) -> Any:
        """Add the steps to a pipeline."""
        return (
            pipeline
            | "Row groups" >> beam.Create(list(self.groups), reshuffle=True)
            | "Work" >> beam.ParDo(self.work)
            | "Merge" >> beam.CombinePerKey(self.merge)
            | "Save" >> beam.ParDo(self.save)
        )

    def run_here(self) -> None:
        """Run the pass in threads, in the order of the row groups.

        Reading, Arrow and NumPy release the GIL, so one process can use all cores.
        """
        self.work.setup()
        merged: dict[str, Any] = {}
        with ThreadPoolExecutor(self.threads) as pool:
            running: deque[Future[list[tuple[str, Any]]]] = deque()

            def add(results: list[tuple[str, Any]]) -> None:
                for key, value in results:
                    before = merged[key] if key in merged else self.merge.create_accumulator()
                    merged[key] = self.merge.add_input(before, value)

            try:
                for group in self.groups:
                    # At most one result per thread waits to be merged.
                    if len(running) > self.threads:
                        add(running.popleft().result())
                    running.append(pool.submit(self._one, group))
                while running:
                    add(running.popleft().result())
            finally:
                for future in running:
                    future.cancel()
        for key, value in merged.items():
            list(self.save.process((key, self.merge.extract_output(value))))

    def _one(self, group: Group) -> list[tuple[str, Any]]:
        return list(self.work.process(group))


def learning(
    groups: Sequence[Group],
    definition: Definition,
    fitted: str,
    limit: int = SPILL_ABOVE,
    threads: int = 1,
) -> Pass:
    """Build the pass that fits features; its result is a folder of fitted features.

    Args:
        groups: Row groups to read.
        definition: Definition of the features.
        fitted: Folder for the fitted features.
        limit: Maximum number of tokens of a vocabulary in memory; more are spilled to files.
        threads: Number of threads per worker, see `nightbid.featurize.runner.threads_of`.
    """
    spill = f"{fitted}.counts"
    rows = sum(rows_of(groups).values())
    save = SaveFitted(definition, fitted, spill, rows, threads)
    return Pass(groups, Learn(definition), MergeStatistics(spill, limit), save, threads)


def transforming(
    groups: Sequence[Group], fitted: str, output: str, threads: int = 1, base: Base | None = None
) -> Pass:
    """Build the pass that transforms; its results are files of rows and profiles."""
    work = TransformGroup(fitted, output, threads, base)
    save = SaveSummary(output, rows_of(groups), base)
    return Pass(groups, work, MergeSummaries(), save, threads)


def rows_of(groups: Iterable[Group]) -> dict[str, int]:
    """Count the rows of each split."""
    rows: dict[str, int] = {}
    for group in groups:
        rows[group.split] = rows.get(group.split, 0) + group.rows
    return rows
