"""What is seen of featurized rows: profiles, OOV ids and values that could not be read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import apache_beam as beam

from nightbid.errors import StageError
from nightbid.featurize.reuse import Base
from nightbid.profile import Profile
from nightbid.unreadable_values import Unreadable


def check_rows(done: str, found: int, expected: int) -> None:
    """Refuse a result that not all rows went into: no runner may lose or repeat any unnoticed.

    Raises:
        StageError: more or fewer rows arrived than the row groups hold.
    """
    if found != expected:
        raise StageError(
            f"{done} {found:,} rows of {expected:,}",
            where="runner",
            hint="the runner lost or repeated rows: rerun, and try another runner",
        )


@dataclass(frozen=True)
class Summary:
    """What was seen of the featurized rows of one split."""

    profile: Profile = field(default_factory=Profile)
    outside: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Input → OOV ids, and ids that are not missing."""
    unreadable: dict[str, Unreadable] = field(default_factory=dict)
    """Feature that reads numbers or times → values that are none."""

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
            {
                name: self.unreadable.get(name, Unreadable())
                + other.unreadable.get(name, Unreadable())
                for name in sorted({*self.unreadable, *other.unreadable})
            },
        )


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

    def __init__(self, output: str, rows: Mapping[str, int], base: Base | None = None) -> None:
        self._output = output
        self._rows = rows
        self._base = base

    def process(self, element: tuple[str, Summary]) -> Iterator[str]:
        """Write two small files."""
        split, summary = element
        check_rows("transformed", summary.profile.rows, self._rows[split])
        save_summary(split, summary, Path(self._output), self._base)
        yield split


def save_summary(split: str, summary: Summary, output: Path, base: Base | None = None) -> None:
    """Write what was seen of a split, with what is known of the columns that were taken."""
    folder = output / "profile"
    profile = base.complete(split, summary.profile) if base else summary.profile
    profile.save(folder / f"split={split}.json")
    outside: dict[str, object] = dict(summary.outside)
    unreadable: dict[str, object] = {n: asdict(each) for n, each in summary.unreadable.items()}
    if base:
        outside |= base.counts("oov", split, base.inputs)
        unreadable |= base.counts("unreadable", split, base.features)
    (folder / f"oov-{split}.json").write_text(json.dumps(outside, sort_keys=True))
    (folder / f"unreadable-{split}.json").write_text(json.dumps(unreadable, sort_keys=True))
