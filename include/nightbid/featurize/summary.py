"""Summaries of featurized rows: profiles, OOV ids and unreadable values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import apache_beam as beam

from nightbid.counts import counted
from nightbid.errors import StageError
from nightbid.featurize.reuse import Base
from nightbid.profile import Profile
from nightbid.unreadable_values import Unreadable


def check_rows(done: str, rows: int, expected: int) -> None:
    """Check that all rows were processed: no runner may lose or repeat rows unnoticed.

    Raises:
        StageError: There are more or fewer rows than the row groups hold.
    """
    if rows != expected:
        raise StageError(
            f"{done} {counted(rows, 'row')} of {expected:,}",
            where="runner",
            hint="the runner lost or repeated rows: rerun, and try another runner",
        )


@dataclass(frozen=True)
class Summary:
    """Summary of the featurized rows of one split."""

    profile: Profile = field(default_factory=Profile)
    outside: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Input → number of OOV ids, and of ids that are not missing."""
    unreadable: dict[str, Unreadable] = field(default_factory=dict)
    """Feature that reads numbers or times → its invalid values."""

    def merge(self, other: Summary) -> Summary:
        """Merge with other rows."""
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
            {
                name: self.unreadable.get(name, Unreadable())
                + other.unreadable.get(name, Unreadable())
                for name in sorted({*self.unreadable, *other.unreadable})
            },
        )


class MergeSummaries(beam.CombineFn):  # type: ignore[misc]
    """CombineFn: associative and commutative, like the one of statistics."""

    def create_accumulator(self) -> Summary:
        """Start with no rows."""
        return Summary()

    def add_input(self, accumulator: Summary, element: Summary) -> Summary:
        """Add the rows of one group."""
        return accumulator.merge(element)

    def merge_accumulators(self, accumulators: Iterable[Summary]) -> Summary:
        """Add the rows of several bundles."""
        merged = Summary()
        for summary in accumulators:
            merged = merged.merge(summary)
        return merged

    def extract_output(self, accumulator: Summary) -> Summary:
        """Return the accumulator."""
        return accumulator


class SaveSummary(beam.DoFn):  # type: ignore[misc]
    """DoFn: split and summary → files in `profile/`."""

    def __init__(self, output: str, rows: Mapping[str, int], base: Base | None = None) -> None:
        self._output = output
        self._rows = rows
        self._base = base

    def process(self, element: tuple[str, Summary]) -> Iterator[str]:
        """Write the files."""
        split, summary = element
        check_rows("transformed", summary.profile.rows, self._rows[split])
        save_summary(split, summary, Path(self._output), self._base)
        yield split


def save_summary(split: str, summary: Summary, output: Path, base: Base | None = None) -> None:
    """Write the summary of a split, merged with that of the copied columns."""
    folder = output / "profile"
    profile = base.complete(split, summary.profile) if base else summary.profile
    profile.save(folder / f"split={split}.json")
    outside: dict[str, object] = dict(summary.outside)
    unreadable: dict[str, object] = {
        name: asdict(count) for name, count in summary.unreadable.items()
    }
    if base:
        outside |= base.counts("oov", split, base.inputs)
        unreadable |= base.counts("unreadable", split, base.features)
    (folder / f"oov-{split}.json").write_text(json.dumps(outside, sort_keys=True))
    (folder / f"unreadable-{split}.json").write_text(json.dumps(unreadable, sort_keys=True))
