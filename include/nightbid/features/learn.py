"""Computes what features learn from rows, and what that depends on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from nightbid.anonymous import NO_USER_COLUMN, UserColumn
from nightbid.config.features import Feature
from nightbid.features.statistics import Statistic
from nightbid.features.transforms.transform import FeatureContext, class_of, transform_of
from nightbid.features.values import RawColumns, naming
from nightbid.schema import LABEL, TIME, WEIGHT


def learn(
    features: Mapping[str, Feature],
    rows: pa.Table,
    *,
    train: bool,
    zone: str = "UTC",
    user: UserColumn = NO_USER_COLUMN,
) -> dict[str, Statistic]:
    """Compute the statistics of some rows; statistics of parts can be merged.

    Args:
        features: Settings by feature name.
        rows: Rows with raw and reserved columns.
        train: The rows are from training days. Only these teach vocabularies and scales; rows of
            every split teach history, since a row uses the history of earlier days only.
        zone: Time zone of the days.
        user: Column of the user.

    Raises:
        DataError: A source column is missing, or has a type that its feature cannot read.
    """
    raw, context = RawColumns(rows, user), FeatureContext(zone=zone, user=user)
    statistics = dict[str, Statistic]()
    for name, feature in learning_features(features, train=train).items():
        with naming(name):
            statistics[name] = transform_of(name, feature, context=context).statistic(raw, rows)
    return statistics


def learning_features(features: Mapping[str, Feature], *, train: bool) -> dict[str, Feature]:
    """Features that learn from rows: all on training days, those with history on any day."""
    return {
        name: feature
        for name, feature in features.items()
        if learns_history(feature) or (train and depends_on(name, feature) is not None)
    }


def learns_history(feature: Feature) -> bool:
    """Whether a feature learns from rows of every split."""
    return class_of(feature).learns_history


def depends_on(name: str, feature: Feature, zone: str = "UTC") -> dict[str, Any] | None:
    """Settings that a feature's statistic depends on; None if it learns nothing."""
    return transform_of(name, feature, context=FeatureContext(zone=zone)).depends_on()


def columns_taught(features: Mapping[str, Feature], *, train: bool) -> set[str]:
    """Columns that `learn` reads, including reserved ones; the others need not be read."""
    names: set[str] = set()
    for name, feature in learning_features(features, train=train).items():
        names.update(feature.sources(name))
        if learns_history(feature):
            names.update((LABEL, WEIGHT, TIME))
    return names
