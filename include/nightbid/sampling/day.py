"""One day of logs as rows that can be trained on: made once, shared by every night of it.

The output of a day is `rows.parquet`, `quarantine.parquet` where rows could not be parsed,
`profile.json` of all parsed rows, and `some_rows.parquet`, a stable sample of whole rows. Where
negatives are sampled away, a training day is another output than the same day as it is evaluated.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nightbid.column_parsing import local_time, token_hashes, whole
from nightbid.config.sources import EventsSource
from nightbid.data.source import JoinsEvents
from nightbid.data.user_keys import UserKeys
from nightbid.errors import CorruptDataError
from nightbid.night.days import DayKey, DayOutput, Made, versions_of
from nightbid.night.manifest import Rows
from nightbid.night.source import code_of
from nightbid.profile import Profile
from nightbid.profile.rows import RowSample
from nightbid.sampling.rows import THINNED, draw, parse, thinned, zone_of
from nightbid.schema import LABEL, REASON, TIME, WEIGHT
from nightbid.storage.verify import link_or_copy

if TYPE_CHECKING:
    from nightbid.config.pipeline import PipelineSpec, Split
    from nightbid.data.source import Source

KIND = "sample"
ROWS, ASIDE, PROFILE, SOME = (
    "rows.parquet",
    "quarantine.parquet",
    "profile.json",
    "some_rows.parquet",
)
LIBRARIES = ("numpy", "pandas", "pyarrow")
"""What computes the rows of a day."""
LARGEST_GROUP = 1 << 20
"""Rows of a row group at which a batch is cut into several."""
LONGEST_TEXT = 256
"""Characters of a text that profiles keep."""
NIGHTLY: dict[str, Any] = {
    **dict.fromkeys(("faults", "folder", "outcomes"), True),
    **{stream: {"folder", "outcomes"} for stream in EventsSource.streams},
}
"""Keys of `source` that say where days lie or what they are used for, not what is in them."""


@dataclass
class DayCount:
    """What became of the rows of one day."""

    read: int = 0
    written: int = 0
    quarantined: int = 0
    repeated: int = 0
    """Rows whose key an earlier row of the day has."""
    positives: float = 0.0
    """Weighted, of the rows written."""
    weight: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    """Reason → the first value that gave it."""
    read_positives: int = 0
    """Rows read whose label is 1, set aside or not; labels that cannot be read may have been 1."""
    aside_positives: int = 0
    """Those of them that were set aside."""
    joined: dict[str, float] = field(default_factory=dict)
    """What a join of events found; empty where the source joins none."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DayCount:
        """Read what a day's manifest has of `asdict`."""
        return cls(**value)

    @property
    def dropped(self) -> int:
        """Left out on purpose."""
        return self.read - self.written - self.quarantined - self.repeated

    def to_json(self) -> dict[str, object]:
        """As the manifest's metrics have it."""
        return {
            "read": self.read,
            "written": self.written,
            "quarantined": self.quarantined,
            "repeated": self.repeated,
            "dropped": self.dropped,
            "positives": self.read_positives,
            "quarantined_positives": self.aside_positives,
            "label_rate": self.positives / self.weight if self.weight else None,
            **self.joined,
        }

    def to_rows(self) -> Rows:
        """As a manifest has them."""
        return Rows(
            read=self.read,
            written=self.written,
            quarantined=self.quarantined,
            repeated=self.repeated,
            dropped=self.dropped,
        )


def key_of(
    source: Source, spec: PipelineSpec, split: Split, day: date, digest: Callable[[Path], str]
) -> DayKey:
    """Say what the rows of a day depend on.

    Args:
        source: opened with the window whose types were settled together.
        spec: the pipeline; of its blocks, `source`, `columns`, `label` and `sampling` count.
        split: negatives are sampled away in `history` and `train` only.
        day: which.
        digest: of a file of logs.

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
            "label": text(spec.label, {"distribution": True}),
            "sampling": json.dumps({"negative_rate": rate}),
            "code": code_of((__name__, type(source).__module__)),
            "libraries": versions_of(LIBRARIES),
        },
    )


def make(folder: Path, source: Source, spec: PipelineSpec, split: Split, day: date) -> Made:
    """Sample one day.

    Args:
        folder: new and empty, on this machine.
        source: of the logs.
        spec: the pipeline.
        split: see `key_of`.
        day: which.

    Raises:
        MissingDataError: the day or a column of it is absent.
        CorruptDataError: the day is empty or unreadable, or the label is not binary.
    """
    count, profile, sample = DayCount(), Profile(), RowSample()
    entities = tuple(name for name in (spec.columns.user, spec.columns.item) if name)
    seen: list[npt.NDArray[np.int64]] = []
    kept, aside = _Writer(folder / ROWS), _Writer(folder / ASIDE)
    try:
        keys = UserKeys.of(spec)
        for table in _tables(source, day):
            table = keys.keyed(table) if keys else table
            parsed = parse(table, spec, source.meaning.truth, f"logs of {day}")
            before = sum(len(keys) for keys in seen)
            rows = draw(parsed.good, spec, split, seen)
            count.repeated += len(parsed.good) - (sum(len(keys) for keys in seen) - before)
            local = _for_profile(parsed.good, zone_of(spec))
            profile = profile.merge(Profile.of(local, entities))
            sample = sample.add(local)
            kept.write(rows)
            if len(parsed.aside):
                aside.write(parsed.aside)
                for reason in parsed.aside[REASON].to_pylist():
                    count.reasons[reason] = count.reasons.get(reason, 0) + 1
            _count(count, rows)
            count.read += len(table)
            count.quarantined += len(parsed.aside)
            count.read_positives += parsed.positives + parsed.aside_positives
            count.aside_positives += parsed.aside_positives
            count.examples = {**parsed.examples, **count.examples}
    finally:
        kept.close()
        aside.close()
    if isinstance(source, JoinsEvents):
        count.joined = source.figures(day)
    if count.read == 0:
        raise CorruptDataError(
            "the day is empty",
            where=f"logs of {day}",
            hint="load the day again, or take another date",
        )
    if count.quarantined == count.read:
        raise CorruptDataError(
            f"none of {count.read:,} rows can be read: {listed(count.reasons, count.examples)}",
            where=f"logs of {day}",
            hint="name the right columns in `columns` and `label`, or fix the logs",
        )
    profile.save(folder / PROFILE)
    sample.save(folder / SOME)
    return Made({"count": asdict(count)}, count.to_rows())


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
    kept = _Writer(folder / ROWS)
    try:
        with pq.ParquetFile(whole.folder / ROWS) as file:
            sizes = [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)]
            if max(sizes, default=0) >= LARGEST_GROUP:
                return None
            # As it was written: Parquet has its own names for the items of lists.
            text = file.metadata.metadata[b"ARROW:schema"]
            schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
            for at in range(file.num_row_groups):
                rows = thinned(file.read_row_group(at).cast(schema), spec)
                kept.write(rows)
                _count(count, rows)
    finally:
        kept.close()
    for each in whole.manifest.files:
        if each.path != ROWS:
            link_or_copy(whole.folder / each.path, folder / each.path)
    return Made({"count": asdict(count)}, count.to_rows())


def _count(count: DayCount, rows: pa.Table) -> None:
    """Add rows that are kept."""
    weight = np.asarray(rows[WEIGHT], np.float64)
    count.written += len(rows)
    count.weight += float(weight.sum())
    count.positives += float((weight * np.asarray(rows[LABEL], np.float64)).sum())


def _tables(source: Source, day: date) -> Iterator[pa.Table]:
    for batch in source.batches(day):
        if batch.num_rows:
            yield pa.Table.from_batches([batch])


def _for_profile(rows: pa.Table, zone: str) -> pa.Table:
    """Give rows as profiles count them.

    Every row counts once, whatever its weight. `nb_time` has the digits of the days' own clock;
    texts beyond `LONGEST_TEXT` characters are cut and end with a digest, so that those that differ
    still do.
    """
    place = rows.column_names.index(WEIGHT)
    rows = rows.set_column(place, WEIGHT, pa.array(np.ones(len(rows), np.float32)))
    if zone != "UTC":
        place = rows.column_names.index(TIME)
        rows = rows.set_column(place, TIME, local_time(rows[TIME], zone))
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


class _Writer:
    """A Parquet file that exists only once there are rows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None
        self._schema: pa.Schema | None = None

    def write(self, table: pa.Table) -> None:
        """Add rows; all of the same columns."""
        if self._writer is None or self._schema is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._schema = table.schema
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table.cast(self._schema))

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()


def listed(reasons: dict[str, int], examples: dict[str, str]) -> str:
    """Name the most frequent reasons of a quarantine, with an example of each."""
    worst = sorted(reasons.items(), key=lambda each: -each[1])[:3]
    return ", ".join(
        f"{reason} ({rows:,} rows"
        + (f", for example {examples[reason]})" if reason in examples else ")")
        for reason, rows in worst
    )
