"""What each feature learns from rows, and what is kept of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from nightbid.columns import encode, numbers
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
from nightbid.features.statistics import (
    DayCounts,
    Events,
    NumberStatistics,
    Statistic,
    Statistics,
    TokenCounts,
)
from nightbid.features.values import Raw, as_float32, items_of, keys_of, numeric_values


@dataclass(frozen=True)
class Learned:
    """What one feature needs besides its definition."""

    numbers: tuple[float, ...] = ()
    """Centre and inverse scale, or ascending bucket boundaries."""
    tokens: pa.Array | None = None
    """string [entries], most frequent first."""
    history: pa.Table | None = None
    """See DayCounts and Events."""


def learn(features: Mapping[str, Feature], rows: pa.Table, *, train: bool) -> dict[str, Statistic]:
    """Compute the statistics of some rows; those of parts merge into those of the whole.

    Args:
        features: the definitions.
        rows: raw and reserved columns.
        train: rows of the training days. Only they teach vocabularies and scales; every split
            teaches history, whose readers look at earlier days only.
    """
    found: dict[str, Statistic] = {}
    raw = Raw(rows)
    for name, feature in features.items():
        statistic: Statistic | None = None
        if isinstance(feature, TargetRate | Count):
            statistic = DayCounts.of(keys_of(name, feature.sources(name), raw), rows)
        elif isinstance(feature, Recent):
            keys = keys_of(name, feature.by, raw)
            items = raw.encoded(feature.column, name)
            statistic = Events.of(keys, items, rows, positive=feature.rows == "positive")
        elif train:
            statistic = _of_training(name, feature, raw)
        if statistic is not None:
            found[name] = statistic
    return found


def _of_training(name: str, feature: Feature, rows: Raw) -> Statistic | None:
    if isinstance(feature, Numeric | Age) or (
        isinstance(feature, Function) and feature.then == "numeric"
    ):
        return NumberStatistics.of(numeric_values(name, feature, rows))
    if isinstance(feature, QuantileBuckets):
        return NumberStatistics.of(numbers(rows.column(feature.column or name, name)))
    if isinstance(feature, Vocabulary):
        return TokenCounts.of(*rows.encoded(feature.column or name, name))
    if isinstance(feature, Bag) or (isinstance(feature, Sequence) and not feature.vocabulary):
        return TokenCounts.of(*encode(items_of(name, feature, rows).flat))
    return None


def conclude(features: Mapping[str, Feature], statistics: Statistics) -> dict[str, Learned]:
    """Keep of the merged statistics what transforming needs."""
    return {
        name: _conclude(features[name], statistic)
        for name, statistic in sorted(statistics.items())
        if name in features
    }


def _conclude(feature: Feature, statistic: Statistic) -> Learned:
    if isinstance(statistic, DayCounts | Events):
        return Learned(history=statistic.table)
    if isinstance(statistic, TokenCounts):
        assert isinstance(feature, Vocabulary | Bag | Sequence)
        return Learned(tokens=statistic.top(feature.top_k, feature.min_count))
    profile = statistic.profile
    if isinstance(feature, QuantileBuckets):
        shares = np.arange(1, feature.buckets) / feature.buckets
        found = [profile.quantile(float(share)) for share in shares]
        # float32 on both sides of every comparison, or a value could change its bucket.
        kept = np.unique(as_float32(np.array([each for each in found if each is not None])))
        return Learned(numbers=tuple(kept.astype(float).tolist()))
    if isinstance(feature, Numeric) and feature.scale == "none":
        return Learned(numbers=(0.0, 1.0))
    if isinstance(feature, Numeric) and feature.scale == "robust":
        low, middle, high = (profile.quantile(share) or 0.0 for share in (0.25, 0.5, 0.75))
        return Learned(numbers=(middle, 1 / (high - low) if high > low else 1.0))
    mean, spread = profile.mean or 0.0, profile.std or 0.0
    # Multiplying by a stored inverse is exact everywhere; dividing by a constant is not.
    return Learned(numbers=(mean, 1 / spread if spread > 0 else 1.0))
