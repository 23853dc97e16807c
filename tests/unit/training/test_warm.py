"""Warm and incremental nights map an earlier model's rows to tonight's ids of the same keys."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nightbid.audit import decisions as audit
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
from nightbid.night.incremental import LearnedDays, excess_of
from nightbid.night.record import RunRecord
from nightbid.night.stages import NIGHT
from nightbid.runner import run_stage
from nightbid.schema import split_files
from nightbid.serving.bundle import Bundle
from nightbid.storage.workspace import Workspace
from typer.testing import CliRunner

PIPELINE = """
pipeline: small
source: {kind: simulator, start: 2026-01-01, rows_per_day: 3000, users: 300, ads: 60}
window: {train_days: 2}
features: {user_id: {min_count: 3}, ad_id: {min_count: 3}, site_id: {min_count: 3}}
model: {architecture: deep, embedding_dim: 4, embedding_l2: 0.1, parameters: {hidden: [8]}}
train: {epochs: 4, patience: 4, batch_size: 128, learning_rate: 0.02, refit: false}
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


def test_warm_start_moves_embedding_rows_with_their_keys():
    tensorflow()
    from nightbid.training.warm import row_map

    old, new = fitted(["a", "b", "c"]), fitted(["d", "c", "a"], hours="")
    before, now = Layout(old.schema), Layout(new.schema)
    moves = row_map(old, new)
    assert len(moves) == now.table_rows
    (start, size), old_start = now.rows_of("ad"), before.rows_of("ad")[0]
    # Missing and OOV keep their rows; d is new; c and a keep their old values.
    assert (moves[start : start + size] - old_start)[[0, 1, 3, 4]].tolist() == [0, 1, 4, 2]
    assert moves[start + 2] == -1
    (start, size), old_start = now.rows_of("place"), before.rows_of("place")[0]
    assert (moves[start : start + size] - old_start).tolist() == list(range(size))


def test_warm_start_resets_rows_whose_meaning_changed():
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


NIGHTS = [dt.date(2026, 1, day) for day in range(4, 8)]
TRAINED = ("sample", "featurize", "train", "train_baseline")


class Nights:
    """Runs nights of a small pipeline, up to training."""

    def __init__(self, folder, *changes):
        self.workspace, self.cache = Workspace(folder / "ws"), folder / "cache"
        self.spec = parse_pipeline(PIPELINE, "small.yaml", changes)
        self.found = {}

    def run(self, day, *changes, stages=TRAINED[:3]):
        spec = parse_pipeline(PIPELINE, "small.yaml", changes) if changes else self.spec
        run = RunRecord.start(self.workspace, spec, day)
        for stage in NIGHT:
            if stage.name in stages:
                self.found[day, stage.name] = run_stage(stage, spec, run, cache_folder=self.cache)
        return run

    def manifest(self, day, stage="train"):
        return self.found[day, stage].manifest

    def learned(self, day, stage="train"):
        return LearnedDays.model_validate(self.manifest(day, stage).metrics["incremental"])

    def weights(self, day):
        folder = self.workspace.at(self.found[day, "train"].uri) / "model"
        return load_arrays(folder / "weights.npz")


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """Run four incremental nights."""
    runs = Nights(tmp_path_factory.mktemp("nights"), "train.mode=incremental", "train.full_every=4",
                  "train.drift_ne=1")  # fmt: skip
    for at, day in enumerate(NIGHTS):
        runs.run(day, stages=TRAINED if at < 2 else TRAINED[:3])
    return runs


def test_each_incremental_night_scores_and_learns_only_the_new_day(nights):
    first, second = nights.learned(NIGHTS[0]), nights.learned(NIGHTS[1])
    assert (first.why_full, first.nights) == ("the first night", 0)
    assert [day.day for day in first.days] == [1, 2]
    assert first.curve == ()
    assert [day.day for day in second.fresh] == [3]
    assert [day.day for day in second.days] == [1, 2, 3]
    (score,) = second.curve
    assert (score.day.day, score.through.day) == (3, 2)
    assert 0.5 < score.normalized_entropy < 1.2
    assert 0 < score.error < 0.1
    steps = [
        int(load_arrays(nights.workspace.at(nights.found[day, "train"].uri)
                        / "model" / "optimizer.npz")["step"])
        for day in NIGHTS[:2]
    ]  # fmt: skip
    assert steps[1] - steps[0] == -(-score.rows // 128)  # one pass, in batches of the same size
    assert nights.manifest(NIGHTS[1]).metrics["epochs"] == 1
    assert "learned 2026-01-03 alone" in nights.manifest(NIGHTS[1]).summary
    # The baseline continues in the same way.
    assert nights.learned(NIGHTS[1], "train_baseline").fresh == second.fresh
    last = nights.learned(NIGHTS[3])
    assert last.nights == 3
    assert [point.day.day for point in last.curve] == [3, 4, 5]


def test_undoing_a_day_retrains_without_it(nights, tmp_path):
    from nightbid.cli import incremental

    settings = {
        "NIGHTBID_WORKSPACE": str(nights.workspace.root),
        "NIGHTBID_PIPELINES": str(tmp_path),
        "COLUMNS": "200",
    }
    (tmp_path / "small.yaml").write_text(PIPELINE)

    def cli_output(*arguments):
        out = CliRunner().invoke(incremental.app, arguments, env=settings)
        return out.output + str(out.exception or "")

    assert "needs a reason" in cli_output("undo", "small", "2026-01-04")
    text = cli_output("undo", "small", "2026-01-04", "--reason", "bots")
    assert "continues from the state of 2026-01-05" in text
    assert "is already undone" in cli_output("undo", "small", "2026-01-04", "--reason", "bots")
    before = nights.weights(NIGHTS[3])
    nights.run(NIGHTS[3])
    learned = nights.learned(NIGHTS[3])
    assert [day.day for day in learned.days] == [1, 2, 3, 5]
    assert [day.day for day in learned.fresh] == [5]
    assert [day.day for day in learned.left_out] == [4]
    assert learned.curve[-1].through.day == 3
    after = nights.weights(NIGHTS[3])
    assert any((after[name] != weight).any() for name, weight in before.items())
    assert "undone by" in (text := cli_output("show", "small"))
    assert "2026-01-05" in text
    assert "learned again" in cli_output("restore", "small", "2026-01-04", "--reason", "no bots")
    assert [entry.what for entry in audit(nights.workspace, "small")] == [
        "undo the day 2026-01-04", "restore the day 2026-01-04",
    ]  # fmt: skip


def test_incremental_training_restarts_periodically_and_after_changes(nights):
    night, mode = dt.date(2026, 1, 8), ("train.mode=incremental", "train.drift_ne=1")
    nights.run(night, *mode, "train.full_every=3")
    learned = nights.learned(night)
    assert (learned.why_full, learned.nights, learned.full_night) == ("every 3 nights", 0, night)
    assert [day.day for day in learned.fresh] == [5, 6]
    nights.run(night, *mode, "train.learning_rate=0.01")
    assert nights.learned(night).why_full.startswith(
        "`train.learning_rate` has changed since the night"
    )


def test_excess_loss_of_a_day_is_measured_beyond_chance(nights):
    usual = nights.learned(NIGHTS[1])
    odd = usual.curve[0].model_copy(update={"normalized_entropy": 1.5, "error": 0.01})
    assert excess_of(odd, usual.usual) > 0.3
    assert excess_of(usual.curve[0], usual.usual) == 0
    assert excess_of(odd, ()) is None


def test_an_incremental_night_without_learning_keeps_the_scores(tmp_path):
    pipeline = Nights(tmp_path, "train.mode=incremental", "train.drift_ne=1")
    pipeline.run(NIGHTS[0], stages=(*TRAINED[:3], "export"))
    exported = tmp_path / "ws" / pipeline.found[NIGHTS[0], "export"].uri
    assert not (exported / "model" / "optimizer.npz").exists()
    bundle = Bundle.load(exported)
    still = ("train.mode=incremental", "train.drift_ne=1", "train.learning_rate=1e-12")
    run = RunRecord.start(pipeline.workspace, pipeline.spec, NIGHTS[0])
    run.pin(parse_pipeline(PIPELINE, "small.yaml", still), {})
    pipeline.run(NIGHTS[1], *still)
    assert pipeline.learned(NIGHTS[1]).nights == 1
    night = {name: tmp_path / "ws" / pipeline.found[NIGHTS[1], name].uri for name in TRAINED[:3]}
    raw = pq.read_table(split_files(night["sample"], "evaluate")[0], partitioning=None)
    rows = pq.read_table(split_files(night["featurize"], "evaluate")[0], partitioning=None)
    known = np.ones(len(rows), bool)
    old_inputs = bundle.fitted.transform(raw)
    for name in ("user_id", "ad_id", "site_id"):
        # Both nights know the key: id 1 stands for keys outside the vocabulary.
        known &= (rows[name].to_numpy() > 1) & (old_inputs[name].to_numpy() > 1)
    assert known.sum() > 500
    assert (rows["ad_id"].to_numpy() != old_inputs["ad_id"].to_numpy()).any(), "ids have moved"
    tonight, before = (
        np.log(p / (1 - p))[known]
        for p in (load_model(night["train"] / "model").predict(rows), bundle.score(raw))
    )
    assert np.abs(tonight - before).max() < 1e-4
    assert before.std() > 0.1


def test_a_warm_night_starts_from_the_champion_with_half_the_epochs(tmp_path, caplog):
    pipeline = Nights(tmp_path, "train.warm_start=true")
    assert "train.warm_start is now `train.mode: warm`" in caplog.text
    first = pipeline.run(NIGHTS[0], stages=("sample", "featurize", "train", "export"))
    assert pipeline.manifest(NIGHTS[0]).metrics["start"] == "cold: there is no champion"
    bundle = pipeline.found[NIGHTS[0], "export"]
    ChampionPointer(pipeline.workspace, "small").promote(
        run_id=first.run_id, night=first.date, bundle_uri=bundle.uri,
        bundle_digest=bundle.manifest.digest, reason="tests",
    )  # fmt: skip
    pipeline.run(NIGHTS[1], "train.mode=warm", "train.learning_rate=1e-12", stages=TRAINED)
    metrics = pipeline.manifest(NIGHTS[1]).metrics
    assert metrics["start"].startswith("warm: the champion's layers")
    assert (pipeline.manifest(NIGHTS[0]).metrics["most_epochs"], metrics["most_epochs"]) == (4, 2)
    old = load_arrays(pipeline.workspace.root / bundle.uri / "model" / "weights.npz")
    new = pipeline.weights(NIGHTS[1])
    for name, weight in new.items():
        if name.endswith("table"):
            assert weight.shape != old[name].shape or np.abs(weight - old[name]).max() > 0.01
        else:
            assert np.abs(weight - old[name]).max() < 1e-6, name


def test_warm_start_is_refused_for_another_architecture_or_inputs():
    tensorflow()
    from nightbid.models.folder import ModelCard
    from nightbid.training.warm import why_cold

    def card(name, schema):
        return ModelCard(
            architecture=name, embedding_dim=4, parameters={}, prior=-2.0, features=schema
        )

    one, other = fitted(["a"]).schema, fitted(["a"], hours="").schema
    assert why_cold(card("deep", one), card("deep", one)) == ""
    assert why_cold(card("deepfm", one), card("deep", one)) == (
        "it has a different architecture, deepfm"
    )
    assert why_cold(card("deep", one), card("deep", other)) == "its inputs are different"


@pytest.mark.parametrize("mode", ["warm", "incremental"])
def test_warm_modes_are_rejected_for_trees(featurized, task_of, mode):
    from nightbid.config.models import Model, Train
    from nightbid.training.stage import run

    task = task_of(featurized, Model(architecture="gradient_boosted_trees"), Train(mode=mode))
    with pytest.raises(ConfigError, match=r"train\.mode: .*full for trees"):
        run(task)
