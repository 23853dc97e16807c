"""All tests share a small night and a scorer; one worker runs them, see `SHARED`."""

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


@pytest.fixture(scope="session")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scorer]:
    """Start a scorer for all tests that need no options or state of their own."""
    with serving(tmp_path_factory.mktemp("scorer"), "--processes", "2") as running:
        yield running
