"""Tests calibration on validation rows, the correction for weights, and TensorBoard's logs."""

from __future__ import annotations

import shutil

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nightbid.config.models import Model, Train
from nightbid.errors import ConfigError
from nightbid.models.calibration import Calibration
from nightbid.models.folder import load_card
from nightbid.models.layout import Packed
from nightbid.models.predict import load_model
from nightbid.schema import LABEL, WEIGHT, split_files
from nightbid.training.calibration import isotonic, learned_as, platt
from nightbid.training.data import Examples
from nightbid.training.stage import run

EMPTY = np.zeros((0, 0))
FEW_TREES = {"gradient_boosted_trees": {"trees": 30}}


def rows_of(labels, weights=None):
    labels = np.asarray(labels, np.float32)
    ones = np.ones_like(labels)
    return Examples(
        Packed(EMPTY, EMPTY, EMPTY), labels, ones if weights is None else weights, ones, ones
    )


def log_loss(z, rows):
    w = rows.weights / rows.weights.sum()
    return float(w @ (np.logaddexp(0, z) - rows.labels * z))


@given(
    slope=st.floats(0.3, 3), intercept=st.floats(-2, 2), seed=st.integers(0, 1000),
    rate=st.floats(0.1, 1),
)  # fmt: skip
def test_platt_calibration_matches_the_label_sum_and_lowers_the_loss(slope, intercept, seed, rate):
    draw = np.random.default_rng(seed)
    z = draw.normal(-1, 1.5, 3000)
    labels = draw.random(3000) < 1 / (1 + np.exp(-(slope * z + intercept)))
    weights = np.where(labels, 1, 1 / rate).astype(np.float32)
    rows = rows_of(labels, weights)
    line = platt(1 / (1 + np.exp(-z)), rows)
    after = line.slope * z + line.intercept
    predicted = weights @ (1 / (1 + np.exp(-after)))
    assert predicted == pytest.approx(float(weights @ labels), rel=1e-4)
    assert log_loss(after, rows) <= log_loss(z, rows) + 1e-12


def test_platt_recovers_a_known_slope_and_intercept():
    draw = np.random.default_rng(1)
    z = draw.normal(-1, 1.5, 200_000)
    labels = draw.random(len(z)) < 1 / (1 + np.exp(-(0.7 * z - 0.4)))
    line = platt(1 / (1 + np.exp(-z)), rows_of(labels))
    assert line.slope == pytest.approx(0.7, abs=0.02)
    assert line.intercept == pytest.approx(-0.4, abs=0.02)


@pytest.mark.parametrize("fitter", [platt, isotonic])
def test_calibration_is_the_identity_without_information(fitter):
    assert fitter(np.array([0.1, 0.2]), rows_of([0, 0])) == Calibration()
    assert fitter(np.array([0.1, 0.1]), rows_of([0, 1])) == Calibration()


def test_isotonic_fits_a_curve_that_platt_cannot():
    draw = np.random.default_rng(2)
    z = draw.normal(0, 2, 100_000)
    bent = np.where(z < 0, 0.3 * z, 2 * z) - 1
    labels = draw.random(len(z)) < 1 / (1 + np.exp(-bent))
    rows, p = rows_of(labels), 1 / (1 + np.exp(-z))
    line, curve = platt(p, rows).logits(z), isotonic(p, rows).logits(z)
    best = log_loss(bent, rows)
    assert log_loss(curve, rows) - best < 0.1 * (log_loss(line, rows) - best)


@given(
    seed=st.integers(0, 1000), count=st.integers(2, 400), kinds=st.integers(2, 50),
    rate=st.floats(0.01, 1),
)  # fmt: skip
def test_isotonic_keeps_the_order_and_stays_finite(seed, count, kinds, rate):
    draw = np.random.default_rng(seed)
    z = draw.choice(draw.normal(-2, 2, kinds), count)
    labels = draw.random(count) < draw.random()
    weights = np.where(labels, 1, 1 / rate).astype(np.float32)
    logits = isotonic(1 / (1 + np.exp(-z)), rows_of(labels, weights)).logits(np.sort(z))
    assert np.isfinite(logits).all()
    assert (np.diff(logits) >= 0).all()
    gaps = np.diff(np.sort(z))
    assert (np.diff(logits)[gaps > 1e-6] > 0).all()


def test_isotonic_matches_scikit_learn_on_grouped_points():
    from sklearn.isotonic import IsotonicRegression

    draw = np.random.default_rng(3)
    points = np.linspace(-3, 3, 16)
    z = np.repeat(points, 20_000)
    labels = draw.random(len(z)) < 1 / (1 + np.exp(-1.5 * z))
    reference = IsotonicRegression().fit(z, labels).predict(points)
    ours = 1 / (1 + np.exp(-isotonic(1 / (1 + np.exp(-z)), rows_of(labels)).logits(points)))
    # Each group gets one more row, at the base rate.
    assert ours == pytest.approx(reference, abs=2e-4)


@pytest.mark.parametrize("name", ["deep", "gradient_boosted_trees"])
@pytest.mark.parametrize("how", ["platt", "isotonic"])
def test_the_configured_calibration_is_trained_and_exported(featurized, task_of, name, how):
    train = Train(batch_size=256, epochs=1, calibration=how)
    task = task_of(
        featurized,
        Model(architecture=name, embedding_l2=1, parameters=FEW_TREES.get(name, {})),
        train,
    )
    metrics = run(task).metrics
    calibration = load_card(task.output / "model").calibration
    assert metrics["calibration"] == calibration.model_dump(mode="json")
    assert calibration.knots if how == "isotonic" else calibration.slope != 1
    table = pq.read_table(split_files(featurized, "validate")[0])
    model = load_model(task.output / "model")
    predicted = model.predict(table)
    assert predicted.mean() == pytest.approx(table[LABEL].to_numpy().mean(), rel=0.03)
    assert served(model, table, task.output) == pytest.approx(predicted, abs=2e-6)


def served(model, table, folder):
    """Score rows with the exported graph."""
    if model.card.architecture == "gradient_boosted_trees":
        from nightbid.serving.tree_graph import write_tree_onnx as write
    else:
        from nightbid.serving.graph import write_onnx as write
    write(model, folder / "model.onnx")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    names = [entry.name for entry in session.get_inputs()]
    feed = {name: table[name].to_numpy() for name in names}
    return session.run(["probability"], feed)[0]


@pytest.mark.parametrize("name", ["logistic_regression", "gradient_boosted_trees"])
def test_rate_calibration_matches_the_label_rate_as_served(featurized, task_of, name):
    def missed(calibration: str) -> float:
        train = Train(batch_size=256, epochs=2, calibration=calibration, positive_weight=2)
        task = task_of(
            featurized,
            Model(architecture=name, parameters=FEW_TREES.get(name, {})),
            train,
            output=calibration,
        )
        run(task)
        rows = pq.read_table(split_files(featurized, "train"), partitioning=None)
        # `predict` blanks the training-only input.
        predicted = load_model(task.output / "model").predict(rows)
        return abs(predicted.mean() / rows[LABEL].to_numpy().mean() - 1)

    assert missed("rate") < 1e-3
    assert missed("none") > 2e-3


@given(rate=st.floats(0.01, 1), p=st.floats(0.001, 0.999), often=st.floats(0.1, 10))
def test_the_weight_correction_matches_the_formula(rate, p, often):
    rows = rows_of([1, 0], np.array([1, 1 / rate], np.float32))
    train, undone = learned_as(rows, Train(sampling_correction=True, positive_weight=often))
    assert train.weights == pytest.approx([often, 1])
    odds = p / (1 - p) * often
    learned = odds / (1 + odds)
    q = learned / (learned + (1 - learned) / rate)  # sampling dropped negatives
    probabilities = 1 / (1 + np.exp(-undone.logits(np.log(odds))))
    assert probabilities == pytest.approx(q / (q + (1 - q) * often), rel=1e-5)


def test_sampling_correction_rejects_unequal_weights():
    rows = rows_of([1, 0, 0], np.array([1, 2, 3], np.float32))
    with pytest.raises(ConfigError, match="sampling_correction"):
        learned_as(rows, Train(sampling_correction=True))


def test_sampling_correction_gives_probabilities_of_all_rows(featurized, task_of, tmp_path):
    folder = tmp_path / "sampled"
    shutil.copytree(featurized, folder)
    for path in split_files(folder, "train"):
        table = pq.read_table(path)
        labels = table[LABEL].to_numpy()
        weights = pa.array(np.where(labels == 1, 1, 4).astype(np.float32))
        table = table.set_column(table.column_names.index(WEIGHT), WEIGHT, weights)
        pq.write_table(table.filter((labels == 1) | (np.arange(len(labels)) % 4 == 0)), path)
    train = Train(batch_size=128, epochs=4, sampling_correction=True, positive_weight=1.5)
    task = task_of(folder, Model(architecture="deep", embedding_l2=1), train)
    metrics = run(task).metrics
    table = pq.read_table(split_files(folder, "validate")[0])
    labels = table[LABEL].to_numpy()
    p = load_model(task.output / "model").predict(table)
    assert p.mean() == pytest.approx(labels.mean(), rel=0.12)
    loss = -np.mean(np.where(labels == 1, np.log(p), np.log1p(-p)))
    assert metrics["validation"]["log_loss"] == pytest.approx(loss, abs=1e-5)
    best = min(epoch["validation_log_loss"] for epoch in metrics["history"])
    assert best == pytest.approx(loss, abs=2e-3)  # the loss that stops it early is corrected too


def test_tensorboard_logs_each_epoch(featurized, task_of):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train = Train(batch_size=256, epochs=2, patience=3)
    task = task_of(featurized, Model(architecture="deep", embedding_l2=1), train)
    outcome = run(task)
    assert "tensorboard/" in outcome.volatile
    events = EventAccumulator(str(task.output / "tensorboard"))
    events.Reload()
    assert {"validation/log_loss", "validation/auc", "train/log_loss"} <= set(
        events.Tags()["tensors"]
    )
    assert [event.step for event in events.Tensors("validation/log_loss")] == [1, 2]
