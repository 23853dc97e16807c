"""A featurized night in a bucket whose trainings are custom jobs of the emulator."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from emulator.storage import Storage
from emulator.training import Training
from nightbid.config.pipeline import PipelineSpec
from nightbid.config.settings import Settings
from nightbid.night.record import RunRecord
from nightbid.night.stages import NIGHT
from nightbid.runner import run_stage
from nightbid.storage.workspace import Workspace

BUCKET = "nightbid-training"
NIGHT_OF = dt.date(2026, 1, 4)
PIPELINE: dict[str, Any] = {
    "pipeline": "small",
    "source": {"kind": "simulator", "rows_per_day": 2000, "users": 300, "ads": 300},
    "window": {"train_days": 2},
    "features": {"ad_id": {"min_count": 5}, "device_type": "vocabulary"},
    "model": {"architecture": "deep", "embedding_dim": 4, "parameters": {"hidden": [8]}},
    "train": {"epochs": 3, "patience": 9, "batch_size": 100, "checkpoint_seconds": 0.05},
}
STAGES = {stage.name: stage for stage in NIGHT}
numbers = itertools.count()


@pytest.fixture(scope="session")
def bucket() -> Iterator[Storage]:
    """Serve one Cloud Storage for all tests of this folder: the rows are featurized once."""
    served = Storage().start()
    served.buckets[BUCKET] = {}
    yield served
    served.stop()


def settings_of(bucket: Storage, service: Training | None, cache: Path) -> dict[str, str]:
    """Return the environment variables of an installation."""
    variables = {
        "PROFILE": "gcp-emulated",
        "CACHE": str(cache),
        "TRACKING": "",
        "CLOUD__PROJECT": "nightbid-project",
        "CLOUD__REGION": "us-central1",
        "CLOUD__BUCKET": BUCKET,
        "CLOUD__STORAGE_ENDPOINT": bucket.endpoint,
        "CLOUD__POLL_SECONDS": "0.2",
    }
    if service is not None:
        variables |= {
            "CLOUD__TRAINING__IMAGE": "docker.pkg.dev/nightbid-project/nightbid/nightbid:1",
            "CLOUD__TRAINING__ENDPOINT": service.endpoint,
        }
    return {f"NIGHTBID_{name}": value for name, value in variables.items()}


@dataclass(frozen=True)
class Trained:
    """A run whose rows are featurized; every test gets another seed and so another key."""

    spec: PipelineSpec
    run: RunRecord
    cache: Path


@pytest.fixture
def trained(
    preloaded_python: None,
    bucket: Storage,
    service: Training,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Trained]:
    """Return a function that prepares a run: `trained(**train settings)`."""
    cache = tmp_path_factory.getbasetemp() / "training-cache"
    for name, value in settings_of(bucket, service, cache).items():
        monkeypatch.setenv(name, value)

    def make(*, budget: dict[str, Any] | None = None, **train: Any) -> Trained:
        number = next(numbers)
        settings = {**PIPELINE["train"], "seed": number, **train}
        tree = {**PIPELINE, "train": settings, "budget": budget or {}}
        spec = PipelineSpec.model_validate(tree)
        workspace = Workspace(Settings().workspace)
        run = RunRecord.start(workspace, spec, NIGHT_OF, run_id=f"run-{number}")
        for name in ("sample", "featurize"):
            run_stage(STAGES[name], spec, run, cache_folder=cache)
        return Trained(spec, run, cache)

    return make
