"""Rows like those that sampling writes, and features of every kind."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from nightbid.config.load import parse_pipeline
from nightbid.features.fitted import Definition, FittedFeatures
from nightbid.features.learn import learn

SPEC = """
pipeline: t
columns: {time: served}
features:
  price: {transform: numeric, log1p: true, missing_indicator: true}
  clipped: {transform: numeric, column: price, clip: [0, 10], scale: none}
  middle: {transform: numeric, column: price, scale: robust}
  price_bucket: {transform: quantile_buckets, column: price, buckets: 8}
  fixed_bucket: {transform: buckets, column: price, boundaries: [1, 2, 5]}
  site: {min_count: 2, oov_buckets: 3}
  site_hash: {transform: hash, column: site, buckets: 50}
  pair: {transform: cross, columns: [site, number], buckets: 97}
  tags: {transform: bag, length: 3, min_count: 1}
  liked: {transform: bag, column: tags, weights: scores, length: 3, min_count: 1}
  recent: {transform: sequence, column: tags, length: 2, min_count: 1}
  lately: {transform: recent, column: site, by: [number], vocabulary: site, length: 4}
  before_today:
    {transform: recent, column: site, by: [number], vocabulary: site, length: 6, before: day}
  words: {transform: text_ngrams, column: title, length: 5, buckets: 300}
  slot: {transform: identity, size: 4, training_only: true}
  hour: {transform: hour, column: served}
  weekday: {transform: day_of_week, column: served}
  age: {transform: age, column: served, since: born}
  site_rate: {transform: target_rate, columns: [site], strength: 5}
  site_rows: {transform: count, columns: [site]}
  title_length: {transform: function, function: text_length, columns: [title]}
"""
DAY = 86_400_000_000


def rows(count: int = 500, seed: int = 0, days: int = 4) -> pa.Table:
    random = np.random.default_rng(seed)
    served = np.sort(random.integers(0, days * DAY, count)) + 20_000 * DAY
    price = random.lognormal(size=count)
    price[random.random(count) < 0.1] = np.nan
    site = random.choice(["a", "b", "c", "d", "rare"], count, p=[0.5, 0.3, 0.1, 0.09, 0.01])
    words = np.array(["buy", "cheap", "red", "shoes", "now"])
    tags = [list(random.choice(words, random.integers(0, 5))) for _ in site]
    label = (random.random(count) < np.where(site == "a", 0.5, 0.1)).astype(np.float32)
    time = pa.array(served).cast(pa.timestamp("us", "UTC"))
    return pa.table(
        {
            "price": pa.array(price),
            "site": pa.array(site),
            "number": pa.array(random.integers(0, 20, count)),
            "tags": pa.array(tags),
            "scores": pa.array([[random.random() for _ in row_tags] for row_tags in tags]),
            "title": pa.array([" ".join(random.choice(words, 3)) for _ in site]),
            "slot": pa.array(random.integers(0, 6, count)),
            "served": time,
            "born": pa.array(served - random.integers(0, 50 * DAY, count)).cast(time.type),
            "nb_key": pa.array(np.arange(count)),
            "nb_label": pa.array(label),
            "nb_weight": pa.array(np.where(label == 1, 1.0, 2.5).astype(np.float32)),
            "nb_time": time,
            "nb_user": pa.array(random.integers(0, 50, count)),
        }
    )


@pytest.fixture
def make_rows() -> Callable[..., pa.Table]:
    return rows


@pytest.fixture(scope="session")
def definition() -> Definition:
    return Definition.of(parse_pipeline(SPEC, "t"))


@pytest.fixture(scope="session")
def fitted(definition) -> FittedFeatures:
    table = rows()
    return FittedFeatures.fit(definition, learn(definition.features, table, train=True))


@pytest.fixture(scope="session")
def table() -> pa.Table:
    return rows(400)
