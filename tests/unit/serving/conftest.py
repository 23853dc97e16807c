"""All tests share a small night; the tests of a module share a scorer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from nightbid.config.load import parse_pipeline
from nightbid.night.record import RunRecord

from .running import Scorer, serving
from .small_night import PIPELINE, SmallNight


@pytest.fixture(scope="session")
def night(tmp_path_factory) -> SmallNight:
    small = SmallNight(tmp_path_factory.mktemp("night"))
    for name in ("sample", "featurize", "train", "export"):
        small.stage(name)
    return small


@pytest.fixture(scope="session")
def draw() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def other(night: SmallNight) -> SmallNight:
    """Train another model of the same night."""
    second = SmallNight(night.root)
    text = PIPELINE.replace("dcn_v2", "logistic_regression")
    second.spec = parse_pipeline(text, "small.yaml")
    second.run = RunRecord.start(night.run.workspace, second.spec, night.run.date, run_id="other")
    for name in ("sample", "featurize", "train", "export"):
        second.stage(name)
    return second


@pytest.fixture(scope="module")
def scorer(night: SmallNight, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scorer]:
    with serving(night, tmp_path_factory.mktemp("scorer")) as running:
        yield running
