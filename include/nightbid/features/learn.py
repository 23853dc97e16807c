"""What each feature learns from rows, and what is kept of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from nightbid.column_parsing import Floats, Ints, encode, numbers
from nightbid.config.features import (
    Age,
    Bag,
    Count,
    Feature,
    Function,
    Numeric,
    QuantileBuckets,
    Recent,
    Sequence,
    TargetRate,
    Vocabulary,
)
from nightbid.features.state import FittedState
from nightbid.features.statistics import (
    DayCounts,
    Events,
    Moments,
    Quantiles,
    Statistic,
    TokenCounts,
)
from nightbid.features.values import (
    RawColumns,
    as_float32,
    items_of,
    keys_of,
    naming,
    numeric_values,
)
from nightbid.profile.bins import DENSE
from nightbid.schema import LABEL, TIME, WEIGHT

History = TargetRate | Count | Recent
"""What happened on earlier days, or before a row: every split tells, readers look back only."""


def learn(
    features: Mapping[str, Feature], rows: pa.Table, *, train: bool, zone: str = "UTC"
) -> dict[str, Statistic]:
    """Compute the statistics of some rows; those of parts merge into those of the whole.

    Args:
        features: the definitions.
        rows: raw and reserved columns.
        train: rows of the training days. Only they teach vocabularies and scales; every split
            teaches history, whose readers look at earlier days only.
        zone: whose clock the days are of.

    Raises:
        DataError: a source column is absent, or is not what its feature reads.
    """
    raw, found = RawColumns(rows), dict[str, Statistic]()
    for name, feature in learning_features(features, train=train).items():
        with naming(name):
            found[name] = (
                _history(name, feature, raw, rows, zone)
                if isinstance(feature, History)
                else _of_training(name, feature, raw)
            )
    return found


def columns_taught(features: Mapping[str, Feature], *, train: bool) -> set[str]:
    """List the columns that `learn` reads, reserved ones among them: the others need no reading."""
    names: set[str] = set()
    for name, feature in learning_features(features, train=train).items():
        names.update(feature.sources(name))
        if isinstance(feature, History):
            names.update((LABEL, WEIGHT, TIME))
    return names


def taught(name: str, feature: Feature, zone: str = "UTC") -> dict[str, Any] | None:
    """Say what a feature's statistic depends on, beside the rows; None where it learns nothing.

    Features with equal answers share one statistic. Settings that only `finalize` and transforms
    read (`min_count`, `top_k`, `strength`, `length`, …) are not there: changing them teaches
    nothing new.
    """
    match feature:
        case Recent():
            return {
                "events": feature.column,
                "by": list(feature.by),
                "rows": feature.rows,
            }
        case TargetRate() | Count():
            days = {} if zone == "UTC" else {"zone": zone}
            return {"by_day": list(feature.sources(name)), **days}
    if not _is_fitted(feature):
        return None
    column = feature.column or name
    match feature:
        case Vocabulary():
            return {"tokens": column}
        case Bag() | Sequence():
            return {"items": column, "separator": feature.separator}
        case QuantileBuckets():
            return {"quantiles": column}
        case Numeric():
            kind = "quantiles" if feature.scale == "robust" else "moments"
            clip = list(feature.clip) if feature.clip else None
            return {kind: column, "clip": clip, "log1p": feature.log1p, "numeric": True}
        case Age():
            return {"moments": list(feature.sources(name)), "age": True}
        case Function():
            return {"moments": list(feature.columns), "function": feature.function}
    raise AssertionError(feature)


def learning_features(features: Mapping[str, Feature], *, train: bool) -> dict[str, Feature]:
    """Features that rows teach: all that learn on training days, history on any day."""
    return {
        name: each
        for name, each in features.items()
        if isinstance(each, History) or (train and _is_fitted(each))
    }


def _is_fitted(feature: Feature) -> bool:
    """Whether training rows teach it anything: fixed buckets, hashes and times are as they are."""
    match feature:
        case Numeric():
            return feature.scale != "none"
        case Function():
            return feature.then == "numeric"
        case Sequence():
            return not feature.vocabulary
    return isinstance(feature, Age | QuantileBuckets | Vocabulary | Bag)


def _history(name: str, feature: History, raw: RawColumns, rows: pa.Table, zone: str) -> Statistic:
    if isinstance(feature, Recent):
        keys = keys_of(name, feature.by, raw)
        items = raw.encoded(feature.column, name)
        return Events.of(keys, items, rows, positive=feature.rows == "positive")
    return DayCounts.of(keys_of(name, feature.sources(name), raw), rows, zone)


def _of_training(name: str, feature: Feature, rows: RawColumns) -> Statistic:
    match feature:
        case Numeric() if feature.scale == "robust":
            return Quantiles.of(*_counted(name, feature, rows))
        case QuantileBuckets():
            return Quantiles.of(*_counted(name, feature, rows))
        case Numeric() | Age() | Function():
            return Moments.of(*_counted(name, feature, rows))
        case Vocabulary():
            return TokenCounts.of(*rows.encoded(feature.column or name, name))
    assert isinstance(feature, Bag | Sequence)
    return TokenCounts.of(*encode(items_of(name, feature, rows).flat))


def _counted(
    name: str, feature: Numeric | QuantileBuckets | Age | Function, rows: RawColumns
) -> tuple[Floats, Ints]:
    """Compute the known numbers, and how often each was seen; the same number may come twice."""
    counts = None
    if isinstance(feature, Numeric | QuantileBuckets):
        column = feature.column or name
        array = rows.column(column, name)
        if pa.types.is_signed_integer(array.type) and len(array) > array.null_count:
            # Integers close together: compute once per distinct value.
            known = np.asarray(array.drop_null()).astype(np.int64)
            lowest = int(known.min())
            if int(known.max()) - lowest < DENSE * len(known):
                seen = np.bincount(known - lowest).astype(np.int64)
                present = np.flatnonzero(seen)
                rows = RawColumns(pa.table({column: (present + lowest).astype(np.int64)}))
                counts = seen[present]
    values = (
        numbers(rows.column(feature.column or name, name))
        if isinstance(feature, QuantileBuckets)
        else numeric_values(name, feature, rows)
    )
    known = ~np.isnan(values)
    if counts is None:
        values = values[known]
        return values, np.ones(len(values), np.int64)
    return values[known], counts[known]


def finalize(feature: Feature, statistic: Statistic) -> FittedState:
    """Keep of a merged statistic what transforming needs."""
    if isinstance(statistic, DayCounts | Events):
        return FittedState(history=statistic.table)
    if isinstance(statistic, TokenCounts):
        assert isinstance(feature, Vocabulary | Bag | Sequence)
        return FittedState(tokens=statistic.top(feature.top_k, feature.min_count))
    if isinstance(statistic, Moments):
        spread = statistic.std
        # Multiplying by a stored inverse is exact everywhere; dividing by a constant is not.
        return FittedState(numbers=(statistic.mean, 1 / spread if spread > 0 else 1.0))
    if isinstance(feature, QuantileBuckets):
        shares = np.arange(1, feature.buckets) / feature.buckets
        found = [statistic.at(float(share)) for share in shares]
        # float32 on both sides of every comparison, or a value could change its bucket.
        kept = np.unique(as_float32(np.array([each for each in found if each is not None])))
        return FittedState(numbers=tuple(kept.astype(float).tolist()))
    low, middle, high = (statistic.at(share) or 0.0 for share in (0.25, 0.5, 0.75))
    return FittedState(numbers=(middle, 1 / (high - low) if high > low else 1.0))
