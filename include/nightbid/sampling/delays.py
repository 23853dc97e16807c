"""Delays of positives, estimated from rows whose labels are final.

G(e) is the share of a row's positives that are known at age e. A row of that age is observed as
positive with probability p · G(e): the elapsed-time likelihood of delayed feedback (Chapelle 2014,
"Modeling Delayed Feedback in Display Advertising", with empirical instead of exponential delays).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nightbid.column_parsing import whole
from nightbid.config.pipeline import PipelineSpec
from nightbid.partitions import end_of as partition_end
from nightbid.sampling.plain import plain_array
from nightbid.sampling.row_files import RowFile, RowWriter
from nightbid.sampling.rows import zone_of
from nightbid.schema import LABEL, SEEN, TIME
from nightbid.time_parsing import as_time

Floats = npt.NDArray[np.float64]
SECOND = 1e6
LEAST = 30
"""Minimum number of positives to estimate delays from."""
RAREST = 1e-3
"""Lower bound of G, since the likelihood divides by it."""


@dataclass(frozen=True)
class Delays:
    """Delays of positives: a mean per group of rows, and one shape for all groups.

    Attributes:
        means: Group → mean delay in seconds, shrunk towards the overall mean.
        overall: Overall mean delay, in seconds.
        shape: Delays divided by their group's mean, ascending.
        final: Age in seconds from which a label is final.
    """

    means: dict[str, float]
    overall: float
    shape: Floats
    final: float

    @classmethod
    def fit(cls, delays: Floats, groups: npt.NDArray[np.object_], final: float) -> Delays:
        """Estimate delays from positives whose labels are final.

        The standard deviation of delays in a group is assumed to equal their mean; variance between
        group means beyond what that explains is between groups. The mean of n delays is therefore
        weighted against the overall mean like n against the ratio of both variances (empirical
        Bayes).

        Args:
            delays: [rows], seconds from impression to event, 0 to `final`.
            groups: [rows], text of each row's group.
            final: Age in seconds from which a label is final.
        """
        overall = max(float(delays.mean()), 1.0)
        names, code = np.unique(groups.astype(str), return_inverse=True)
        count, total = np.bincount(code), np.bincount(code, delays)
        apart = float((count * (total / count - overall) ** 2).sum() / len(delays))
        own = max(apart - overall**2 * len(names) / len(delays), 1e-9)
        prior = overall**2 / own
        means = np.maximum((total + prior * overall) / (count + prior), 1.0)
        return cls(
            dict(zip(names.tolist(), means.tolist(), strict=True)),
            overall,
            np.sort(delays / means[code]),
            final,
        )

    def seen(self, ages: Floats, groups: npt.NDArray[np.object_]) -> Floats:
        """Share of the positives of rows that are known at their age.

        Args:
            ages: [rows], in seconds.
            groups: [rows], text of each row's group; unknown groups use the overall mean.

        Returns:
            float64 [rows], in (0, 1].
        """
        names, code = np.unique(groups.astype(str), return_inverse=True)
        means = np.array([self.means.get(name, self.overall) for name in names])[code]
        share = np.searchsorted(self.shape, ages / means, side="right") / len(self.shape)
        return np.clip(np.where(ages >= self.final, 1.0, share), RAREST, 1.0)


def end_of(night: date, spec: PipelineSpec) -> int:
    """Microseconds since 1970 at the end of a night's newest day, in the time zone of its logs."""
    over = partition_end(night, spec.partition).replace(tzinfo=ZoneInfo(zone_of(spec)))
    return int(over.timestamp() * SECOND)


def learn_delays(files: Iterable[Path], spec: PipelineSpec) -> Delays | None:
    """Estimate the delays of positives.

    Args:
        files: Sampled rows of days whose labels are final.
        spec: Settings of the pipeline, which name the columns.

    Returns:
        The delays; None if there are too few positive rows.
    """
    label = spec.label
    assert label.event_time is not None
    columns = [label.event_time, TIME, LABEL, *([label.delay_by] if label.delay_by else [])]
    delays, groups = [], []
    for path in files:
        table = pq.read_table(path, columns=columns, partitioning=None)
        table = table.filter(pc.greater(table[LABEL], 0))
        event = as_time(table[label.event_time], zone_of(spec)).cast(pa.int64())
        waited = pc.subtract(event, table[TIME].cast(pa.int64()))
        delays.append(np.asarray(pc.fill_null(waited, 0)).astype(np.float64) / SECOND)
        groups.append(_groups(table, label.delay_by))
    seconds = np.maximum(np.concatenate([*delays, np.zeros(0)]), 0.0)
    if len(seconds) < LEAST:
        return None
    return Delays.fit(seconds, np.concatenate(groups), label.attribution_days * 86_400.0)


def add_seen(path: Path, delays: Delays, spec: PipelineSpec, until: int) -> None:
    """Rewrite young rows with the share of their positives that is known."""
    temporary = path.with_name(f".{path.name}")
    writer = RowWriter(temporary)
    with RowFile(path) as file:
        for table in file.tables():
            ages = (until - np.asarray(table[TIME].cast(pa.int64()))) / SECOND
            seen = delays.seen(ages, _groups(table, spec.label.delay_by))
            writer.write(table.append_column(SEEN, pa.array(seen.astype(np.float32))))
    writer.close()
    os.replace(temporary, path)


def _groups(table: pa.Table, column: str | None) -> npt.NDArray[np.object_]:
    if column is None:
        return np.full(len(table), "", object)
    texts = pc.fill_null(plain_array(whole(table[column])).cast(pa.string()), "")
    return np.asarray(texts.to_numpy(zero_copy_only=False), object)
