"""Statistics of a set of rows by column; profiles of parts merge into that of the whole.

Merging is exact, associative and commutative: the same rows give the same bytes on disk, however
they were split into batches, days and workers.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nightbid.errors import CorruptDataError
from nightbid.profile.attributes import Attributes
from nightbid.profile.bins import Ints
from nightbid.profile.column import ColumnProfile
from nightbid.profile.exact import ExactSum
from nightbid.profile.measure import profile_column
from nightbid.schema import KEY, LABEL, RESERVED, TIME, WEIGHT
from nightbid.time_parsing import as_time

FORMAT = 1
MAX_PAIRED = 8
"""Maximum number of flags, and of times, to compare pairwise: pairs grow quadratically."""


@dataclass(frozen=True)
class LabelCounts:
    """Counts of the label; weights compensate for downsampled negatives."""

    rows: int = 0
    positives: int = 0
    weight: ExactSum = field(default_factory=ExactSum)
    weighted_positives: ExactSum = field(default_factory=ExactSum)

    def __add__(self, other: LabelCounts) -> LabelCounts:
        return LabelCounts(
            self.rows + other.rows,
            self.positives + other.positives,
            self.weight + other.weight,
            self.weighted_positives + other.weighted_positives,
        )

    @property
    def rate(self) -> float | None:
        """Weighted share of label 1; None without rows."""
        return float(self.weighted_positives.fraction / self.weight.fraction) if self.rows else None


@dataclass(frozen=True)
class Profile:
    """Mergeable statistics of rows."""

    rows: int = 0
    columns: dict[str, ColumnProfile] = field(default_factory=dict)
    label: LabelCounts = field(default_factory=LabelCounts)
    contradictions: dict[str, int] = field(default_factory=dict)
    """Number of contradictory rows, by description.

    `a without b`: rows where flag a is 1 and flag b is not. `a after b`: rows where time a is later
    than time b."""
    attributes: dict[str, Attributes] = field(default_factory=dict)
    """Samples of attributes, by the column that identifies the entity."""

    @classmethod
    def of(
        cls,
        table: pa.Table | pa.RecordBatch,
        entities: Sequence[str] = (),
        without: Collection[str] = (),
    ) -> Profile:
        """Profile all columns of some rows.

        Args:
            table: Table with any columns; the reserved ones (nb_label, nb_weight) give label
                statistics.
            entities: Columns that identify the entities that other columns describe (user, item).
            without: Columns to leave out, whose profiles are already known.
        """
        if isinstance(table, pa.RecordBatch):
            table = pa.Table.from_batches([table])
        label = np.zeros(len(table), np.int64)
        known = LabelCounts()
        if LABEL in table.column_names:
            values = np.asarray(pc.fill_null(table[LABEL].cast(pa.float64()), np.nan))
            label = (values > 0).astype(np.int64)  # for value labels: whether the value is above 0
            known = _label_counts(table, ~np.isnan(values), label)
        columns = {
            name: profile_column(name, table[name], label)
            for name in sorted(table.column_names)
            if name not in without
        }
        attributes = {name: Attributes.of(table, name) for name in entities}
        return cls(len(table), columns, known, _contradictions(table), attributes)

    def merge(self, other: Profile) -> Profile:
        """Merge with the profile of other rows.

        Raises:
            CorruptDataError: A column has different kinds in the two.
        """
        columns: dict[str, ColumnProfile] = {}
        for name in sorted({*self.columns, *other.columns}):
            left, right = self.columns.get(name), other.columns.get(name)
            if left and right:
                try:
                    columns[name] = left.merge(right)
                except CorruptDataError as error:
                    raise CorruptDataError(error.what, where=name, hint=error.hint) from error
            else:
                column = left or right
                assert column is not None
                columns[name] = column
        names = sorted({*self.contradictions, *other.contradictions})
        return Profile(
            self.rows + other.rows,
            columns,
            self.label + other.label,
            {
                name: self.contradictions.get(name, 0) + other.contradictions.get(name, 0)
                for name in names
            },
            {
                name: self.attributes.get(name, Attributes()).merge(
                    other.attributes.get(name, Attributes())
                )
                for name in sorted({*self.attributes, *other.attributes})
            },
        )

    @property
    def label_rate(self) -> float | None:
        """Weighted share of label 1; None without a label."""
        return self.label.rate

    @property
    def duplicate_share(self) -> float | None:
        """Share of the rows that repeat a key; None without keys. Exact below 8192 keys."""
        key = self.columns.get(KEY)
        return key.sample.repeated_share if key else None

    @property
    def rows_by_hour(self) -> dict[int, tuple[int, int]]:
        """Hours since 1970 → rows, and rows with label 1."""
        time = self.columns.get(TIME)
        if time is None:
            return {}
        bins = time.bins
        pairs = zip(bins.counts.tolist(), bins.positives.tolist(), strict=True)
        return dict(zip(bins.keys.tolist(), pairs, strict=True))

    def save(self, path: Path) -> None:
        """Write canonical JSON: equal profiles give equal bytes."""
        value = {
            "format": FORMAT,
            "rows": self.rows,
            "label": {
                "rows": self.label.rows,
                "positives": self.label.positives,
                "weight": self.label.weight.to_json(),
                "weighted_positives": self.label.weighted_positives.to_json(),
                "rate": self.label_rate,
            },
            "contradictions": self.contradictions,
            "columns": {name: column.to_json() for name, column in self.columns.items()},
            "attributes": {
                name: attributes.to_json() for name, attributes in self.attributes.items()
            },
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
        path.write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Load a profile that `save` wrote.

        Raises:
            CorruptDataError: The file holds something else.
        """
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            return _from_json(value)
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptDataError(
                f"not a profile ({error})", where=str(path), hint="rerun the stage that wrote it"
            ) from error


def _from_json(value: dict[str, Any]) -> Profile:
    if value["format"] != FORMAT:
        raise ValueError(f"format {value['format']!r}, expected {FORMAT}")
    label = value["label"]
    return Profile(
        value["rows"],
        {
            name: ColumnProfile.from_json(column)
            for name, column in sorted(value["columns"].items())
        },
        LabelCounts(
            label["rows"],
            label["positives"],
            ExactSum.from_json(label["weight"]),
            ExactSum.from_json(label["weighted_positives"]),
        ),
        dict(sorted(value["contradictions"].items())),
        # Missing in profiles of older versions.
        {
            name: Attributes.from_json(attributes)
            for name, attributes in sorted(value.get("attributes", {}).items())
        },
    )


def _label_counts(table: pa.Table, known: npt.NDArray[np.bool_], label: Ints) -> LabelCounts:
    if WEIGHT in table.column_names:
        weights = np.asarray(pc.fill_null(table[WEIGHT].cast(pa.float64()), 1.0))[known]
    else:
        weights = np.ones(int(known.sum()))
    marked = label[known]
    values, inverse = np.unique(weights, return_inverse=True)
    counts = np.bincount(inverse, minlength=len(values)).astype(np.int64)
    positive = np.bincount(inverse, weights=marked, minlength=len(values)).astype(np.int64)
    return LabelCounts(
        int(known.sum()),
        int(marked.sum()),
        ExactSum.of(values, counts),
        ExactSum.of(values, positive),
    )


def _contradictions(table: pa.Table) -> dict[str, int]:
    flags: dict[str, npt.NDArray[np.bool_]] = {}
    times: dict[str, pa.Array] = {}
    for name in sorted(table.column_names):
        kind = table.schema.field(name).type
        if name in RESERVED:
            continue
        if pa.types.is_timestamp(kind) and len(times) < MAX_PAIRED:
            times[name] = as_time(table[name])
        elif (pa.types.is_integer(kind) or pa.types.is_boolean(kind)) and len(flags) < MAX_PAIRED:
            column = table[name].cast(pa.int8()) if pa.types.is_boolean(kind) else table[name]
            extremes = pc.min_max(column)  # in the column's type, since hashes may exceed int64
            low, high = extremes["min"].as_py(), extremes["max"].as_py()
            if low is None or low < 0 or high > 1:
                continue
            flags[name] = np.asarray(pc.fill_null(column, 0)) == 1
    result: dict[str, int] = {}
    for first, second in combinations(flags, 2):
        result[f"{first} without {second}"] = int((flags[first] & ~flags[second]).sum())
        result[f"{second} without {first}"] = int((flags[second] & ~flags[first]).sum())
    for first, second in combinations(times, 2):
        left, right = times[first], times[second]
        result[f"{first} after {second}"] = pc.sum(pc.greater(left, right)).as_py() or 0
        result[f"{second} after {first}"] = pc.sum(pc.greater(right, left)).as_py() or 0
    return dict(sorted(result.items()))
