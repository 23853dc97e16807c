"""What features learn from rows, and what depends on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from nightbid.config.features import Feature
from nightbid.features.statistics import Statistic
from nightbid.features.transforms.transform import Context, class_of, transform_of
from nightbid.features.values import RawColumns, naming
from nightbid.schema import LABEL, TIME, WEIGHT


def learn(
    features: Mapping[str, Feature], rows: pa.Table, *, train: bool, zone: str = "UTC"
) -> dict[str, Statistic]:
    """Compute the statistics of some rows; those of parts merge into those of the whole.

    Args:
        features: The definitions.
        rows: Raw and reserved columns.
        train: The rows are of training days. Only they teach vocabularies and scales; every split
            teaches history, whose readers look at earlier days only.
        zone: Time zone of the days.

    Raises:
        DataError: A source column is absent, or is not what its feature reads.
    """
    raw, context, found = RawColumns(rows), Context(zone=zone), dict[str, Statistic]()
    for name, feature in learning_features(features, train=train).items():
        with naming(name):
            found[name] = transform_of(name, feature, context=context).statistic(raw, rows)
    return found


def learning_features(features: Mapping[str, Feature], *, train: bool) -> dict[str, Feature]:
    """List the features that rows teach: all that learn on training days, history on any day."""
    return {
        name: each
        for name, each in features.items()
        if learns_history(each) or (train and depends_on(name, each) is not None)
    }


def learns_history(feature: Feature) -> bool:
    """Whether a feature learns from the rows of every split."""
    return class_of(feature).learns_history


def depends_on(name: str, feature: Feature, zone: str = "UTC") -> dict[str, Any] | None:
    """Say what a feature's statistic depends on, besides the rows; None if it learns nothing."""
    return transform_of(name, feature, context=Context(zone=zone)).depends_on()


def columns_taught(features: Mapping[str, Feature], *, train: bool) -> set[str]:
    """List the columns that `learn` reads, reserved ones among them: the others need no reading."""
    names: set[str] = set()
    for name, feature in learning_features(features, train=train).items():
        names.update(feature.sources(name))
        if learns_history(feature):
            names.update((LABEL, WEIGHT, TIME))
    return names
