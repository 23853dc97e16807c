"""Sampling: the days of one night, as rows that can be trained on.

Writes `split=*/dt=*/part-00000.parquet`, rows that could not be parsed in `quarantine/`, and a
profile of every day's parsed rows, sampled away or not. Of the days to evaluate, a stable sample
of the same rows lies in `rows/`, for the gate's expectations on single rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from nightbid.column_parsing import local_time
from nightbid.config.pipeline import SPLITS, Night, PipelineSpec
from nightbid.data.day_names import SPELLED
from nightbid.data.source import Source, open_source
from nightbid.errors import CorruptDataError, MissingDataError
from nightbid.features.outcomes import refuse_outcomes
from nightbid.night.manifest import Rows
from nightbid.night.task import Outcome, StageTask
from nightbid.profile import Profile
from nightbid.profile.rows import RowSample
from nightbid.sampling.frozen import place
from nightbid.sampling.rows import draw, parse, zone_of
from nightbid.schema import LABEL, REASON, TIME, WEIGHT


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
        }


def run(task: StageTask) -> Outcome:
    """Sample every day of the night's window.

    Raises:
        MissingDataError: a day or a column is absent, or the window is longer than the history.
        CorruptDataError: a day is empty or unreadable, or the label is not binary; or a frozen
            data set is not what was frozen.
        ConfigError: a frozen data set is of another night, or of rows that mean something else.
    """
    if name := task.spec.sampling.frozen:
        return _frozen(task, name)
    window = [(split, day) for split in SPLITS for day in task.night.days(split)]
    source = open_source(task.spec.source, task.cache, [day for _, day in window])
    check_window(source, task.night)
    roles = task.spec.columns
    known = {*source.meaning.outcomes, *source.meaning.truth.values()}
    outcomes = sorted(known | {each for each in (roles.price, roles.bid, roles.value) if each})
    refuse_outcomes(task.spec, outcomes)
    counts: dict[str, DayCount] = {}
    for number, (split, day) in enumerate(window):
        task.progress(number / len(window), f"{day} → {split}")
        count = _sample_day(task, source, split, day)
        counts[day.isoformat()] = count
    total = Rows(
        read=sum(each.read for each in counts.values()),
        written=sum(each.written for each in counts.values()),
        quarantined=sum(each.quarantined for each in counts.values()),
        repeated=sum(each.repeated for each in counts.values()),
        dropped=sum(each.dropped for each in counts.values()),
    )
    weight = sum(each.weight for each in counts.values())
    rate = sum(each.positives for each in counts.values()) / weight if weight else 0.0
    reasons: dict[str, int] = {}
    examples: dict[str, str] = {}
    for count in counts.values():
        examples = {**count.examples, **examples}
        for reason, rows in count.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + rows
    return Outcome(
        rows=total,
        metrics={
            "label_rate": rate,
            "days": {name: each.to_json() for name, each in counts.items()},
            "quarantine": reasons,
            "quarantine_examples": examples,
            "outcomes": outcomes,
        },
        summary=f"{len(counts)} days, label rate {rate:.4f}, {_accounted(total)}"
        + (f", quarantined: {_listed(reasons, examples)}" if reasons else ""),
    )


def _frozen(task: StageTask, name: str) -> Outcome:
    found = place(task.workspace, name, task.spec, task.night, task.output)
    rate = found.metrics.get("label_rate")
    return Outcome(
        rows=found.rows,
        metrics=found.metrics,
        summary=f"{found.rows.written:,} rows of the frozen data set {name}, every byte checked"
        + (f", label rate {rate:.4f}" if rate is not None else ""),
    )


def fingerprint(spec: PipelineSpec, night: Night, cache: Path) -> str:
    """Tell the night's raw logs apart from others: changed logs are sampled again."""
    if spec.sampling.frozen:
        return f"frozen as {spec.sampling.frozen}"  # what a name stands for never changes
    days = (*night.train, *night.validate_, *night.evaluate)
    return open_source(spec.source, cache).fingerprint(days)


def check_window(source: Source, night: Night) -> None:
    """Refuse a window that the source does not cover, naming what is there.

    Raises:
        MissingDataError: as said.
    """
    known = source.days()
    if known is None:
        return
    wanted = (*night.train, *night.validate_, *night.evaluate)
    missing = [day for day in wanted if day not in set(known)]
    if not missing:
        return
    if not known:
        raise MissingDataError(
            "no file of the folder belongs to a day",
            where="source",
            hint=f"name days {SPELLED}",
        )
    if missing[0] == wanted[0] and wanted[0] < known[0]:
        raise MissingDataError(
            f"the window of {len(wanted)} days starts on {wanted[0]}, but the logs start on"
            f" {known[0]}",
            where="window",
            hint="shorten window.train_days or take a later date",
        )
    raise MissingDataError(
        f"{len(missing)} of {len(wanted)} days are missing: {', '.join(map(str, missing[:5]))}",
        where="source",
        hint=f"the logs go from {known[0]} to {known[-1]}; load the missing days, or take"
        " another date",
    )


def _sample_day(task: StageTask, source: Source, split: str, day: date) -> DayCount:
    spec, count, profile = task.spec, DayCount(), Profile()
    sample = RowSample()
    entities = tuple(name for name in (spec.columns.user, spec.columns.item) if name)
    seen: list[npt.NDArray[np.int64]] = []
    kept = _Writer(task.output / f"split={split}" / f"dt={day}" / "part-00000.parquet")
    aside = _Writer(task.output / "quarantine" / f"dt={day}" / "part-00000.parquet")
    try:
        for table in _tables(source, day):
            parsed = parse(table, spec, source.meaning.truth, f"logs of {day}")
            before = sum(len(keys) for keys in seen)
            rows = draw(parsed.good, spec, split, seen)
            count.repeated += len(parsed.good) - (sum(len(keys) for keys in seen) - before)
            local = _by_local_clock(parsed.good, zone_of(spec))
            profile = profile.merge(Profile.of(local, entities))
            if split == "evaluate":
                sample = sample.add(local)
            kept.write(rows)
            if len(parsed.aside):
                aside.write(parsed.aside)
                for reason in parsed.aside[REASON].to_pylist():
                    count.reasons[reason] = count.reasons.get(reason, 0) + 1
            weight = np.asarray(rows[WEIGHT], np.float64)
            count.read += len(table)
            count.written += len(rows)
            count.quarantined += len(parsed.aside)
            count.read_positives += parsed.positives + parsed.aside_positives
            count.aside_positives += parsed.aside_positives
            count.examples = {**parsed.examples, **count.examples}
            count.weight += float(weight.sum())
            count.positives += float((weight * np.asarray(rows[LABEL], np.float64)).sum())
    finally:
        kept.close()
        aside.close()
    if count.read == 0:
        raise CorruptDataError(
            "the day is empty",
            where=f"logs of {day}",
            hint="load the day again, or take another date",
        )
    if count.quarantined == count.read:
        raise CorruptDataError(
            f"none of {count.read:,} rows can be read: {_listed(count.reasons, count.examples)}",
            where=f"logs of {day}",
            hint="name the right columns in `columns` and `label`, or fix the logs",
        )
    profile.save(task.output / "profile" / f"dt={day}.json")
    sample.save(task.output / "rows" / f"dt={day}.parquet")
    return count


def _tables(source: Source, day: date) -> Iterator[pa.Table]:
    for batch in source.batches(day):
        if batch.num_rows:
            yield pa.Table.from_batches([batch])


def _by_local_clock(rows: pa.Table, zone: str) -> pa.Table:
    """Give `nb_time` the digits of the days' own clock, by which profiles count hours and days."""
    if zone == "UTC":
        return rows
    place = rows.column_names.index(TIME)
    return rows.set_column(place, TIME, local_time(rows[TIME], zone))


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


def _accounted(rows: Rows) -> str:
    parts = [f"{rows.read:,} rows: {rows.written:,} kept"]
    for count, what in (
        (rows.quarantined, "quarantined"),
        (rows.repeated, "repeated keys"),
        (rows.dropped, "sampled away or outside the label's condition"),
    ):
        parts += [f"{count:,} {what}"] if count else []
    return ", ".join(parts)


def _listed(reasons: dict[str, int], examples: dict[str, str]) -> str:
    worst = sorted(reasons.items(), key=lambda each: -each[1])[:3]
    return ", ".join(
        f"{reason} ({rows:,} rows"
        + (f", for example {examples[reason]})" if reason in examples else ")")
        for reason, rows in worst
    )
