"""Provides rows with every kind of input."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from nightbid.schema import FeatureSchema, ModelInput


@pytest.fixture(scope="session")
def schema() -> FeatureSchema:
    return FeatureSchema(
        inputs=(
            ModelInput(name="user", kind="id", feature="user", size=40),
            ModelInput(name="ad", kind="id", feature="ad", size=20, vocabulary="ad"),
            ModelInput(name="price", kind="float", feature="price"),
            ModelInput(name="topics", kind="bag", feature="topics", size=10, length=3),
            ModelInput(
                name="seen", kind="sequence", feature="seen", size=20, length=4, vocabulary="ad"
            ),
            ModelInput(name="place", kind="id", feature="place", size=6, training_only=True),
        )
    )


@pytest.fixture(scope="session")
def rows() -> pa.Table:
    draw = np.random.default_rng(3)
    count = 500

    def lists(values: np.ndarray) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])

    topics = draw.integers(0, 10, (count, 3)).astype(np.int32)
    weights = (topics > 0) / np.maximum((topics > 0).sum(1, keepdims=True), 1)
    return pa.table(
        {
            "user": draw.integers(0, 40, count).astype(np.int32),
            "ad": draw.integers(0, 20, count).astype(np.int32),
            "price": draw.normal(size=count).astype(np.float32),
            "topics": lists(topics),
            "topics__weight": lists(weights.astype(np.float32)),
            "seen": lists(draw.integers(0, 20, (count, 4)).astype(np.int32)),
            "place": draw.integers(1, 6, count).astype(np.int32),
        }
    )
