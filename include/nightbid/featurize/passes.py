"""The two Beam pipelines: one learns from the rows, one transforms them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from upath import UPath

from nightbid.columns import whole
from nightbid.features.fitted import Definition, FittedFeatures
from nightbid.features.learn import learn
from nightbid.features.statistics import Statistic, TokenCounts, merge_all
from nightbid.featurize.groups import Group, write_rows
from nightbid.profile import Profile
from nightbid.schema import LABEL, REASON, RESERVED, TIME, WEIGHT

SPILL_ABOVE = 2_000_000
"""Tokens of one vocabulary: some 100 MiB."""


def sources_of(definition: Definition) -> list[str]:
    """Source columns that any feature reads."""
    names = {definition.time}
    for name, feature in definition.features.items():
        names.update(feature.sources(name))
    return sorted(names)


class Learn(beam.DoFn):  # type: ignore[misc]
    """Row group → statistics of every feature."""

    def __init__(self, definition: Definition) -> None:
        self._definition = definition
        self._columns = {*sources_of(definition), LABEL, WEIGHT, TIME}

    def process(self, group: Group) -> Iterator[dict[str, Statistic]]:
        """Learn from one row group."""
        rows = group.read(self._columns)
        yield learn(self._definition.features, rows, train=group.split == "train")


class MergeStatistics(beam.CombineFn):  # type: ignore[misc]
    """Associative and commutative: any bundling of the row groups gives the same."""

    def __init__(self, spill: str, limit: int = SPILL_ABOVE) -> None:
        """Combine.

        Args:
            spill: folder that all workers reach, for the counts of very many tokens.
            limit: tokens of a vocabulary that are counted in memory.
        """
        self._spill = spill
        self._limit = limit

    def create_accumulator(self) -> dict[str, Statistic]:
        """Start with no rows."""
        return {}

    def add_input(
        self, accumulator: dict[str, Statistic], element: dict[str, Statistic]
    ) -> dict[str, Statistic]:
        """Add the rows of one group."""
        return self._bounded(merge_all(accumulator, element))

    def merge_accumulators(
        self, accumulators: Iterable[dict[str, Statistic]]
    ) -> dict[str, Statistic]:
        """Add the rows of several bundles."""
        merged: dict[str, Statistic] = {}
        for each in accumulators:
            merged = self._bounded(merge_all(merged, each))
        return merged

    def extract_output(self, accumulator: dict[str, Statistic]) -> dict[str, Statistic]:
        """Give the sum."""
        return accumulator

    def _bounded(self, statistics: dict[str, Statistic]) -> dict[str, Statistic]:
        return {
            name: each.spill(UPath(self._spill), self._limit)
            if isinstance(each, TokenCounts)
            else each
            for name, each in statistics.items()
        }


class SaveFitted(beam.DoFn):  # type: ignore[misc]
    """Merged statistics → folder of fitted features."""

    def __init__(self, definition: Definition, folder: str, spill: str) -> None:
        self._definition = definition
        self._folder = folder
        self._spill = spill

    def process(self, statistics: dict[str, Statistic]) -> Iterator[str]:
        """Write the folder."""
        FittedFeatures.fit(self._definition, statistics).save(Path(self._folder))
        shutil.rmtree(self._spill, ignore_errors=True)
        yield self._folder


@dataclass(frozen=True)
class Summary:
    """What was seen of the featurized rows of one split."""

    profile: Profile = field(default_factory=Profile)
    outside: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Input → OOV ids, and ids that are not missing."""

    def merge(self, other: Summary) -> Summary:
        """Add both sets of rows."""
        names = sorted({*self.outside, *other.outside})
        none = (0, 0)
        return Summary(
            self.profile.merge(other.profile),
            {
                name: (
                    self.outside.get(name, none)[0] + other.outside.get(name, none)[0],
                    self.outside.get(name, none)[1] + other.outside.get(name, none)[1],
                )
                for name in names
            },
        )


class Transform(beam.DoFn):  # type: ignore[misc]
    """Row group → a file of featurized rows, and a summary of them."""

    def __init__(self, fitted: str, output: str) -> None:
        self._fitted_folder = fitted
        self._output = output
        self._fitted: FittedFeatures | None = None

    def setup(self) -> None:
        """Load what was learned, once per worker."""
        self._fitted = FittedFeatures.load(Path(self._fitted_folder))

    def process(self, group: Group) -> Iterator[tuple[str, Summary]]:
        """Transform one row group."""
        assert self._fitted is not None
        table, summary = transformed(self._fitted, group)
        write_rows(table, Path(self._output) / group.target)
        yield group.split, summary


def transformed(fitted: FittedFeatures, group: Group) -> tuple[pa.Table, Summary]:
    """Featurize one row group: its rows, with the reserved columns, and what is seen of them."""
    rows = group.read({*sources_of(fitted.definition), *RESERVED})
    inputs = fitted.transform(rows)
    kept = [name for name in RESERVED if name in rows.column_names and name != REASON]
    table = pa.table(
        {name: whole(rows[name]) for name in kept} | dict(_columns(inputs)),
    )
    return table, Summary(Profile.of(table), _outside(fitted, inputs))


def _outside(fitted: FittedFeatures, inputs: pa.Table) -> dict[str, tuple[int, int]]:
    counts = {}
    for name, buckets in fitted.oov_buckets.items():
        column = whole(inputs[name])
        ids = np.asarray(column.flatten() if pa.types.is_fixed_size_list(column.type)
                         else column)  # fmt: skip
        counts[name] = (int(((ids > 0) & (ids <= buckets)).sum()), int((ids > 0).sum()))
    return counts


class MergeSummaries(beam.CombineFn):  # type: ignore[misc]
    """Associative and commutative, as the statistics are."""

    def create_accumulator(self) -> Summary:
        """Start with no rows."""
        return Summary()

    def add_input(self, accumulator: Summary, element: Summary) -> Summary:
        """Add the rows of one group."""
        return accumulator.merge(element)

    def merge_accumulators(self, accumulators: Iterable[Summary]) -> Summary:
        """Add the rows of several bundles."""
        merged = Summary()
        for each in accumulators:
            merged = merged.merge(each)
        return merged

    def extract_output(self, accumulator: Summary) -> Summary:
        """Give the sum."""
        return accumulator


class SaveSummary(beam.DoFn):  # type: ignore[misc]
    """Split and summary → `profile/split=*.json` and `outside/split=*.json`."""

    def __init__(self, output: str) -> None:
        self._output = output

    def process(self, element: tuple[str, Summary]) -> Iterator[str]:
        """Write two small files."""
        split, summary = element
        save_summary(split, summary, Path(self._output))
        yield split


def save_summary(split: str, summary: Summary, output: Path) -> None:
    """Write what was seen of a split."""
    folder = output / "profile"
    summary.profile.save(folder / f"split={split}.json")
    text = json.dumps(summary.outside, sort_keys=True)
    (folder / f"oov-{split}.json").write_text(text)


def learning(
    groups: list[Group], definition: Definition, fitted: str, limit: int = SPILL_ABOVE
) -> Any:
    """Build the pass that learns; its result is a folder of fitted features.

    Args:
        groups: what to read.
        definition: the features.
        fitted: the folder.
        limit: tokens of a vocabulary that a worker counts in memory; more go through files.
    """
    spill = f"{fitted}.counts"

    def expand(pipeline: beam.Pipeline) -> Any:
        return (
            pipeline
            | "Row groups" >> beam.Create(groups, reshuffle=True)
            | "Learn" >> beam.ParDo(Learn(definition))
            | "Merge" >> beam.CombineGlobally(MergeStatistics(spill, limit)).without_defaults()
            | "Save" >> beam.ParDo(SaveFitted(definition, fitted, spill))
        )

    return expand


def transforming(groups: list[Group], fitted: str, output: str) -> Any:
    """Build the pass that transforms; its results are files of rows and profiles."""

    def expand(pipeline: beam.Pipeline) -> Any:
        return (
            pipeline
            | "Row groups" >> beam.Create(groups, reshuffle=True)
            | "Transform" >> beam.ParDo(Transform(fitted, output))
            | "Merge" >> beam.CombinePerKey(MergeSummaries())
            | "Save" >> beam.ParDo(SaveSummary(output))
        )

    return expand


def _columns(table: pa.Table) -> Iterator[tuple[str, pa.Array]]:
    for name in table.column_names:
        yield name, whole(table[name])
