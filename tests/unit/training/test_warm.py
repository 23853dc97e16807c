"""Warm start: what the champion knows of a key is there, wherever the key's id is tonight."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nightbid.config.features import Hour, Identity, Sequence, Vocabulary
from nightbid.config.load import parse_pipeline
from nightbid.errors import ConfigError
from nightbid.features.fitted import Definition, FittedFeatures
from nightbid.features.state import FittedState
from nightbid.models.folder import load_arrays
from nightbid.models.layout import Layout
from nightbid.models.predict import load_model
from nightbid.models.runtime import tensorflow
from nightbid.night.champion import ChampionPointer
from nightbid.night.record import RunRecord
from nightbid.night.stages import NIGHT
from nightbid.runner import run_stage
from nightbid.schema import split_files
from nightbid.serving.bundle import Bundle
from nightbid.storage.workspace import Workspace

PIPELINE = """
pipeline: small
source: {kind: simulator, start: 2026-01-01, rows_per_day: 3000, users: 300, ads: 60}
window: {train_days: 2}
features: {user_id: {min_count: 3}, ad_id: {min_count: 3}, site_id: {min_count: 3}}
model: {architecture: deep, embedding_dim: 4, embedding_l2: 0.1, parameters: {hidden: [8]}}
train: {epochs: 4, patience: 4, batch_size: 128, learning_rate: 0.02, warm_start: true}
"""


def fitted(tokens, *, oov=1, size=16, hours="hour"):
    features = {
        "ad": Vocabulary(transform="vocabulary", oov_buckets=oov),
        "seen": Sequence(transform="sequence", length=3, vocabulary="ad"),
        "place": Identity(transform="identity", size=size),
    }
    if hours:
        features["hour"] = Hour(transform="hour", column=hours)
    return FittedFeatures(
        Definition(features=features, time="time"), {"ad": FittedState(tokens=pa.array(tokens))}
    )


def test_rows_follow_their_keys():
    tensorflow()
    from nightbid.training.warm import row_map

    old, new = fitted(["a", "b", "c"]), fitted(["d", "c", "a"], hours="")
    before, now = Layout(old.schema), Layout(new.schema)
    moves = row_map(old, new)
    assert len(moves) == now.table_rows
    (start, size), old_start = now.rows_of("ad"), before.rows_of("ad")[0]
    # Missing and OOV stay; d is new; c and a are where they were.
    assert (moves[start : start + size] - old_start)[[0, 1, 3, 4]].tolist() == [0, 1, 4, 2]
    assert moves[start + 2] == -1
    (start, size), old_start = now.rows_of("place"), before.rows_of("place")[0]
    assert (moves[start : start + size] - old_start).tolist() == list(range(size))


def test_what_means_something_else_now_begins_fresh():
    tensorflow()
    from nightbid.training.warm import row_map

    old, new = fitted(["a"], oov=2, size=8), fitted(["a"], oov=3, size=16, hours="click_time")
    now = Layout(new.schema)
    moves = row_map(old, new)
    for name in ("place", "hour"):
        start, size = now.rows_of(name)
        assert (moves[start : start + size] == -1).all()
    start, _ = now.rows_of("ad")
    assert (moves[start + 1 : start + 4] == -1).all(), "hashed into other buckets"
    assert moves[start + 4] == Layout(old.schema).rows_of("ad")[0] + 3


@pytest.mark.slow
def test_a_night_that_learns_nothing_more_scores_like_the_champion(tmp_path):
    workspace, found = Workspace(tmp_path / "ws"), {}

    def night(day, spec):
        run = RunRecord.start(workspace, spec, day)
        for stage in NIGHT:
            if stage.name in ("sample", "featurize", "train", "export"):
                found[stage.name] = run_stage(stage, spec, run, cache_folder=tmp_path / "cache")
        return run

    first = night(dt.date(2026, 1, 4), parse_pipeline(PIPELINE, "small.yaml"))
    bundle = found["export"]
    assert "warm_start" not in found["train"].manifest.metrics, "there was no champion"
    ChampionPointer(workspace, "small").promote(
        run_id=first.run_id, night=first.date, bundle_uri=bundle.uri,
        bundle_digest=bundle.manifest.digest, reason="tests",
    )  # fmt: skip
    still = ("train.learning_rate=1e-12", "train.epochs=1")
    night(dt.date(2026, 1, 6), parse_pipeline(PIPELINE, "small.yaml", still))
    said = found["train"].manifest.metrics["warm_start"]
    assert said.startswith("warm: ")
    trained = tmp_path / "ws" / found["train"].uri / "model"
    champion = Bundle.load(tmp_path / "ws" / bundle.uri)
    sampled = tmp_path / "ws" / found["sample"].uri
    raw = pq.read_table(split_files(sampled, "evaluate")[0], partitioning=None)
    featurized = tmp_path / "ws" / found["featurize"].uri
    rows = pq.read_table(split_files(featurized, "evaluate")[0], partitioning=None)
    known = np.ones(len(rows), bool)
    theirs = champion.fitted.transform(raw)
    for name in ("user_id", "ad_id", "site_id"):
        # Both nights know the key: id 1 is what is not in the vocabulary.
        known &= (rows[name].to_numpy() > 1) & (theirs[name].to_numpy() > 1)
    assert known.sum() > 500
    assert (rows["ad_id"].to_numpy() != theirs["ad_id"].to_numpy()).any(), "ids have moved"
    mine, before = (
        np.log(p / (1 - p))[known] for p in (load_model(trained).predict(rows), champion.score(raw))
    )
    # Alike up to the base rates of the two windows, which every model starts from.
    assert (mine - before).std() < 1e-4
    assert before.std() > 0.1
    steps = int(load_arrays(trained / "optimizer.npz")["step"])
    assert steps > 20, "the champion's steps count on"


def test_another_architecture_begins_cold_and_says_so(tmp_path):
    tf = tensorflow()
    from nightbid.models.folder import ModelCard, save_card
    from nightbid.models.network import Network
    from nightbid.training.adam import LazyAdam
    from nightbid.training.warm import warm_up

    features = fitted(["a"]).schema

    def card(name):
        return ModelCard(
            architecture=name, embedding_dim=4, parameters={}, prior=-2.0, features=features
        )

    save_card(card("deepfm"), tmp_path / "model")
    network = Network(card("deep"))
    before = network.weights()
    optimizer = LazyAdam([tf.Variable(each.value) for each in network.model.trainable_weights])
    said = str(warm_up(network, optimizer, tmp_path, tmp_path))
    assert said == "cold: the champion has another architecture, deepfm"
    assert all((each == before[name]).all() for name, each in network.weights().items())


def test_trees_cannot(featurized, task_of):
    from nightbid.config.models import Model, Train
    from nightbid.training.stage import run

    task = task_of(featurized, Model(architecture="gradient_boosted_trees"), Train(warm_start=True))
    with pytest.raises(ConfigError, match=r"train\.warm_start.*false for trees"):
        run(task)
