"""The training stage learns, is reproducible to the bit and stops early."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nightbid.config.models import Model, Train
from nightbid.errors import ConfigError, MissingDataError
from nightbid.models.predict import load_model
from nightbid.schema import LABEL, WEIGHT, split_files
from nightbid.storage.workspace import file_digest
from nightbid.training.data import read_examples
from nightbid.training.stage import run, run_baseline
from nightbid.training.validation import validate

DCN = Model(architecture="dcn_v2", embedding_dim=4, embedding_l2=1)


def evaluate_auc(folder, featurized):
    from nightbid.models.layout import Layout

    model = load_model(folder)
    rows = read_examples(featurized, "evaluate", Layout(model.card.features), serving=True)
    table = pa.concat_tables(pq.read_table(path) for path in split_files(featurized, "evaluate"))
    return validate(model.predict(table), rows)


@pytest.fixture(scope="module")
def oracle_auc(featurized):
    from sklearn.metrics import roc_auc_score

    world = np.random.default_rng(11)
    users, ads = world.normal(0, 1, 50), world.normal(0, 1, 30)
    table = pq.read_table(split_files(featurized, "evaluate")[0])
    score = users[table["user"]] + ads[table["ad"]] + 0.5 * table["price"].to_numpy()
    return roc_auc_score(table[LABEL], score)


def test_dcn_reaches_the_oracle_auc_within_0_02(featurized, task_of, oracle_auc):
    train = Train(batch_size=128, epochs=6, learning_rate=0.005, patience=2)
    task = task_of(featurized, DCN, train)
    outcome = run(task)
    measured = evaluate_auc(task.output / "model", featurized)
    assert measured.auc > oracle_auc - 0.02
    metrics = outcome.metrics
    assert metrics["validation"]["auc"] > 0.75
    assert len(metrics["history"]) == metrics["epochs"]
    assert metrics["best_epoch"] <= metrics["epochs"]
    assert outcome.rows.read == 10_000


def test_logistic_regression_learns_and_is_calibrated(featurized, task_of, oracle_auc):
    train = Train(batch_size=128, epochs=6)
    task = task_of(featurized, Model(architecture="logistic_regression"), train)
    run_baseline(task)
    assert evaluate_auc(task.output / "model", featurized).auc > oracle_auc - 0.02
    table = pq.read_table(split_files(featurized, "evaluate")[0])
    scores = load_model(task.output / "model").predict(table)
    assert scores.mean() == pytest.approx(table[LABEL].to_numpy().mean(), rel=0.1)


def test_equal_trainings_write_identical_bytes(featurized, task_of):
    import keras

    tasks = [task_of(featurized, DCN, output=name) for name in ("one", "two")]
    for task in tasks:
        run(task)
        # Layers that a process builds between two trainings change the numbers in layer names.
        for _ in range(3):
            keras.layers.Dense(1)
    one, two = (
        {path.name: file_digest(path) for path in (task.output / "model").iterdir()}
        for task in tasks
    )
    assert one == two
    other = task_of(featurized, DCN, output="three", seed=1)
    run(other)
    assert file_digest(other.output / "model" / "weights.npz") != one["weights.npz"]


def test_training_stops_early_and_keeps_the_best_weights(featurized, task_of):
    train = Train(batch_size=64, epochs=30, learning_rate=0.02, patience=1, schedule="constant")
    loose = DCN.model_copy(update={"embedding_l2": 0.0})
    task = task_of(featurized, loose, train)
    metrics = run(task).metrics
    losses = [epoch["validation_log_loss"] for epoch in metrics["history"]]
    assert metrics["epochs"] == metrics["best_epoch"] + 2 < 30
    assert metrics["validation"]["log_loss"] == min(losses)
    from nightbid.models.layout import Layout

    model = load_model(task.output / "model")
    rows = read_examples(featurized, "validate", Layout(model.card.features), serving=True)
    assert validate(model.score(rows.inputs), rows).log_loss == min(losses)


def test_weights_correct_for_sampled_negatives(featurized, task_of, tmp_path):
    folder = tmp_path / "sampled"
    shutil.copytree(featurized, folder)
    for path in split_files(folder, "train"):
        table = pq.read_table(path)
        labels = table[LABEL].to_numpy()
        keep = (labels == 1) | (np.arange(len(labels)) % 4 == 0)
        weights = np.where(labels == 1, 1, 4).astype(np.float32)
        place = table.column_names.index(WEIGHT)
        pq.write_table(table.set_column(place, WEIGHT, pa.array(weights)).filter(keep), path)
    task = task_of(folder, Model(architecture="logistic_regression"), Train(batch_size=128))
    run(task)
    table = pq.read_table(split_files(folder, "evaluate")[0])
    scores = load_model(task.output / "model").predict(table)
    assert scores.mean() == pytest.approx(table[LABEL].to_numpy().mean(), rel=0.12)


def test_progress_reports_loss_speed_and_time_left(featurized, task_of):
    from dataclasses import replace

    messages = []
    task = task_of(featurized, DCN, Train(batch_size=256, epochs=1))
    run(replace(task, progress=lambda done, message="": messages.append((done, message))))
    shares = [done for done, _ in messages]
    assert shares == sorted(shares)
    assert 0 <= shares[0] <= shares[-1] <= 1
    assert any("loss" in text and "samples/s" in text and "left" in text for _, text in messages)


def test_an_unknown_architecture_is_rejected_with_a_suggestion(featurized, task_of):
    with pytest.raises(ConfigError, match="did you mean 'dcn_v2'"):
        run(task_of(featurized, Model(architecture="dcnv2")))


def test_training_without_validation_rows_is_rejected(featurized, task_of, tmp_path):
    folder = tmp_path / "bare"
    shutil.copytree(featurized, folder)
    shutil.rmtree(folder / "split=validate")
    with pytest.raises(MissingDataError, match="no validate rows"):
        run(task_of(folder, DCN))
