"""Provides a featurize output with a signal to learn, and a night that trains on it."""

from __future__ import annotations

import datetime as dt
from datetime import UTC
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nightbid.config.features import Vocabulary
from nightbid.config.models import Model, Train
from nightbid.config.pipeline import Night, PipelineSpec
from nightbid.night.manifest import Manifest
from nightbid.night.task import StageInput, StageTask
from nightbid.schema import KEY, LABEL, WEIGHT, FeatureSchema, ModelInput
from nightbid.storage.workspace import Workspace
from upath import UPath

SCHEMA = FeatureSchema(
    inputs=(
        ModelInput(name="user", kind="id", feature="user", size=50),
        ModelInput(name="ad", kind="id", feature="ad", size=30),
        ModelInput(name="price", kind="float", feature="price"),
        ModelInput(name="place", kind="id", feature="place", size=5, training_only=True),
    )
)


def make_rows(count: int, seed: int) -> tuple[pa.Table, np.ndarray]:
    """Return rows and their true probabilities."""
    world, draw = np.random.default_rng(11), np.random.default_rng(seed)
    users, ads = world.normal(0, 1, 50), world.normal(0, 1, 30)
    user = draw.integers(0, 50, count).astype(np.int32)
    ad = draw.integers(0, 30, count).astype(np.int32)
    price = draw.normal(size=count).astype(np.float32)
    place = draw.integers(1, 5, count).astype(np.int32)
    truth = 1 / (1 + np.exp(2 - users[user] - ads[ad] - 0.5 * price))
    label = (draw.random(count) < truth).astype(np.float32)
    table = pa.table(
        {
            KEY: np.arange(count) + seed * 1_000_000,
            LABEL: label,
            WEIGHT: np.ones(count, np.float32),
            "user": user,
            "ad": ad,
            "price": price,
            "place": place,
        }
    )
    return table, truth


def write(table: pa.Table, folder: Path, split: str, day: str) -> None:
    path = folder / f"split={split}" / f"dt={day}" / "part-00000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(table, path)


@pytest.fixture(scope="session")
def featurized(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("featurize")
    (folder / "fitted").mkdir()
    SCHEMA.save(folder / "fitted")
    for at, (split, day, count) in enumerate(
        [
            ("train", "2026-01-01", 4000),
            ("train", "2026-01-02", 4000),
            ("validate", "2026-01-03", 2000),
            ("evaluate", "2026-01-04", 2000),
        ]
    ):
        write(make_rows(count, at)[0], folder, split, day)
    return folder


@pytest.fixture
def task_of(tmp_path):
    """Make the task of a training stage."""

    def make(
        featurized: Path,
        model: Model,
        train: Train | None = None,
        *,
        output: str = "out",
        inputs: dict[str, Path] | None = None,
        seed: int = 0,
    ) -> StageTask:
        spec = PipelineSpec(
            pipeline="test",
            features={"user": Vocabulary(transform="vocabulary")},
            model=model,
            baseline=model,
            train=train or Train(batch_size=256, epochs=2),
            seed=seed,
        )
        folder = tmp_path / output
        folder.mkdir()
        given = {"featurize": featurized, **(inputs or {})}
        return StageTask(
            spec=spec,
            night=Night.of(spec, dt.date(2026, 1, 4)),
            run_id="test",
            inputs={name: StageInput(_manifest(name), UPath(path)) for name, path in given.items()},
            history=(),
            output=folder,
            workspace=Workspace(str(tmp_path / "workspace")),
            cache=tmp_path / "cache",
        )

    return make


def _manifest(stage: str) -> Manifest:
    return Manifest(
        pipeline="test",
        run_id="test",
        stage=stage,
        night="2026-01-04",
        key="k",
        digest=f"digest of {stage}",
        inputs={},
        spec_digest="",
        code_digest="",
        versions={},
        seed=0,
        created=dt.datetime(2026, 1, 5, tzinfo=UTC),
    )
