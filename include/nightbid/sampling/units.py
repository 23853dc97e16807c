"""Samples one unit of a day: its rows are read, parsed, set aside, sampled and profiled.

A unit is the work of one worker: a whole day if it is small, else some row groups or lines of its
files. Its folder has `rows.parquet`, `quarantine.parquet` if rows could not be parsed,
`profile.json`, `some_rows.parquet`, `count.json`, and, if the day has other units, `keys.npy`: the
sorted keys, to find rows whose key an earlier unit has.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.anonymous import UserColumn, are_anonymous
from nightbid.column_parsing import token_hashes, whole
from nightbid.data.user_keys import UserKeyHasher
from nightbid.night.manifest import RowCounts
from nightbid.profile import Profile
from nightbid.profile.rows import RowSample
from nightbid.sampling.as_read import OthersWriter, is_slow
from nightbid.sampling.row_files import ASIDE, PROFILE, ROWS, SOME, RowWriter
from nightbid.sampling.rows import THINNED, chosen, parse, positive_keys, thinned, wanted, zone_of
from nightbid.schema import KEY, LABEL, REASON, TIME, USER, WEIGHT
from nightbid.time_parsing import local_time

if TYPE_CHECKING:
    from nightbid.config.pipeline import PipelineSpec, Split
    from nightbid.data.source import UnitOfLogs

COUNT, KEYS, LOST = "count.json", "keys.npy", "lost_positives.npy"
NO_KEYS = np.zeros(0, np.int64)
LONGEST_TEXT = 256
"""Maximum length of a text in profiles, in characters."""


@dataclass
class DayRowCounts:
    """Row counts of one day, or of one unit of it."""

    read: int = 0
    written: int = 0
    quarantined: int = 0
    repeated: int = 0
    """Number of rows whose key an earlier row of the day has."""
    repeated_positives: int = 0
    """Number of keys with label 1 in a later row only, so that the label is lost."""
    positives: float = 0.0
    """Weighted number of positives among the written rows."""
    weight: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    """Reason → the first value that caused it."""
    read_positives: int = 0
    """Number of rows read whose label is 1 or unreadable, whether or not they were set aside."""
    aside_positives: int = 0
    """Number of these rows that were set aside."""
    anonymous: int = 0
    """Number of rows that could be parsed and have no user."""
    joined: dict[str, float] = field(default_factory=dict)
    """Statistics of the event join; empty if the source joins no events."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DayRowCounts:
        """Build from the `asdict` value in a day's manifest."""
        return cls(**value)

    @property
    def dropped(self) -> int:
        """Number of rows left out on purpose."""
        return self.read - self.written - self.quarantined - self.repeated

    def add_kept(self, rows: pa.Table) -> None:
        """Add rows that are written."""
        weight = np.asarray(rows[WEIGHT], np.float64)
        self.written += len(rows)
        self.weight += float(weight.sum())
        self.positives += float((weight * np.asarray(rows[LABEL], np.float64)).sum())

    def add(self, later: DayRowCounts) -> None:
        """Add the counts of a later unit."""
        for name in ("read", "written", "quarantined", "repeated", "repeated_positives", "weight",
                     "positives", "read_positives", "aside_positives", "anonymous"):  # fmt: skip
            setattr(self, name, getattr(self, name) + getattr(later, name))
        for reason, rows in later.reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + rows
        self.examples = {**later.examples, **self.examples}
        self.joined = {**self.joined, **later.joined}

    def to_json(self) -> dict[str, object]:
        """Counts in the form of the manifest's metrics."""
        return {
            "read": self.read,
            "written": self.written,
            "quarantined": self.quarantined,
            "repeated": self.repeated,
            "repeated_positives": self.repeated_positives,
            "dropped": self.dropped,
            "positives": self.read_positives,
            "quarantined_positives": self.aside_positives,
            "label_rate": self.positives / self.weight if self.weight else None,
            **({"anonymous": self.anonymous} if self.anonymous else {}),
            **self.joined,
        }

    def to_rows(self) -> RowCounts:
        """Counts in the form of a manifest's `rows`."""
        return RowCounts(
            read=self.read,
            written=self.written,
            quarantined=self.quarantined,
            repeated=self.repeated,
            dropped=self.dropped,
        )


@dataclass(frozen=True)
class DayUnit:
    """A unit of a day of a split; can be sent to another process."""

    split: Split
    day: date
    number: int
    of: int
    """Number of units of the day."""
    logs: UnitOfLogs
    truth: Mapping[str, str]
    """Label column → column of its true probability, if known."""
    is_keyed: bool = False
    """Whether user ids are already keyed."""
    until: int | None = None
    """Microseconds since 1970 at which later events are unknown; None: all events are known."""

    @property
    def name(self) -> str:
        """Name of the unit's folder."""
        return f"{self.split}-{self.day}-{self.number:05d}"


def sample_unit(folder: Path, unit: DayUnit, spec: PipelineSpec) -> None:
    """Sample one unit.

    Args:
        folder: New, empty local folder.
        unit: Unit to sample.
        spec: Settings of the pipeline.

    Raises:
        MissingDataError: The day or one of its columns is missing.
        CorruptDataError: A file is unreadable, or the label is not binary.
    """
    count, profile, sample = DayRowCounts(), Profile(), RowSample()
    user = UserColumn.of(spec.columns)
    entities = tuple(name for name in (spec.columns.user, spec.columns.item) if name)
    seen: list[npt.NDArray[np.int64]] = []
    positive, kept_positive = [NO_KEYS], [NO_KEYS]
    kept, aside = RowWriter(folder / ROWS), RowWriter(folder / ASIDE)
    thins = unit.split in THINNED and spec.sampling.negative_rate < 1
    keeps_others = is_slow(spec.source) and not thins
    others = OthersWriter(folder, spec.columns.user, is_wanted=keeps_others)
    try:
        keys = None if unit.is_keyed else UserKeyHasher.of(spec)
        for table in _tables(unit.logs):
            table = keys.keyed(table) if keys else table
            parsed = parse(table, spec, unit.truth, f"logs of {unit.day}", unit.until)
            is_wanted = wanted(parsed.good, spec)
            is_chosen = chosen(parsed.good, is_wanted, seen)
            count.repeated += len(parsed.good) - len(seen[-1])
            others.add(table, parsed.places[is_chosen])
            rows = parsed.good.filter(pa.array(is_chosen))
            positive.append(positive_keys(parsed.good, is_wanted))
            kept_positive.append(positive_keys(parsed.good, is_chosen))
            rows = thinned(rows, spec) if thins else rows
            local = _for_profile(parsed.good, zone_of(spec), user)
            profile = profile.merge(Profile.of(local, entities))
            sample = sample.add(local)
            kept.write(rows)
            if len(parsed.aside):
                aside.write(parsed.aside)
                for reason in parsed.aside[REASON].to_pylist():
                    count.reasons[reason] = count.reasons.get(reason, 0) + 1
            count.add_kept(rows)
            count.read += len(table)
            count.quarantined += len(parsed.aside)
            count.read_positives += parsed.positives + parsed.aside_positives
            count.aside_positives += parsed.aside_positives
            keyed = (np.asarray(parsed.good[name]) for name in (KEY, USER))
            count.anonymous += int(are_anonymous(*keyed).sum())
            count.examples = {**parsed.examples, **count.examples}
    finally:
        kept.close()
        aside.close()
        others.close(unit.of)
    count.joined = unit.logs.figures()
    profile.save(folder / PROFILE)
    sample.save(folder / SOME)
    lost = np.setdiff1d(np.concatenate(positive), np.concatenate(kept_positive))
    count.repeated_positives = len(lost)
    if unit.of > 1:
        np.save(folder / KEYS, np.sort(np.concatenate([NO_KEYS, *seen])))
        np.save(folder / LOST, lost)
    (folder / COUNT).write_text(json.dumps(asdict(count)))


def _tables(logs: UnitOfLogs) -> Iterator[pa.Table]:
    for batch in logs.batches():
        if batch.num_rows:
            yield pa.Table.from_batches([batch])


def _for_profile(rows: pa.Table, zone: str, user: UserColumn) -> pa.Table:
    """Convert rows to the form that profiles count.

    Every row counts once, whatever its weight. `nb_time` is local time in the zone of the days;
    a user is null where the row has none; texts longer than `LONGEST_TEXT` characters are truncated
    and end with a digest, so that different texts remain different.
    """
    place = rows.column_names.index(WEIGHT)
    rows = rows.set_column(place, WEIGHT, pa.array(np.ones(len(rows), np.float32)))
    if zone != "UTC":
        place = rows.column_names.index(TIME)
        rows = rows.set_column(place, TIME, local_time(rows[TIME], zone))
    place = rows.column_names.index(user.name)
    rows = rows.set_column(place, user.name, user.with_nulls(rows[user.name]))
    for place, column in enumerate(rows.schema):
        if pa.types.is_string(column.type):
            values = whole(rows.column(place))
            if (pc.max(pc.binary_length(values)).as_py() or 0) > LONGEST_TEXT:
                rows = rows.set_column(place, column.name, _cut(values))
    return rows


def _cut(values: pa.Array) -> pa.Array:
    long = pc.fill_null(pc.greater(pc.utf8_length(values), LONGEST_TEXT), False)
    texts = values.filter(long)
    if not len(texts):
        return values
    starts = pc.utf8_slice_codeunits(texts, 0, LONGEST_TEXT).to_pylist()
    digests = token_hashes(texts).tolist()
    cut = [f"{text}…{digest:016x}" for text, digest in zip(starts, digests, strict=True)]
    return pc.replace_with_mask(values, long, pa.array(cut))
