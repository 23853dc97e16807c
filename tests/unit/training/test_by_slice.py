"""Tests offsets per value of a column: their estimates, and that every path adds the same ones."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nightbid.config.load import parse_pipeline
from nightbid.config.models import Model, Train
from nightbid.errors import ConfigError
from nightbid.models.calibration import Calibration
from nightbid.models.folder import load_card
from nightbid.models.predict import load_model
from nightbid.schema import LABEL, split_files
from nightbid.serving.export import write_graph
from nightbid.training.by_slice import shrunken
from nightbid.training.job import Fit
from nightbid.training.stage import asked_candidate, run


def drawn(draw, offsets, rows, level=0.0):
    """Return logits that lack their value's offset and a common level."""
    codes = draw.integers(0, len(offsets), rows)
    z = draw.normal(-2, 1, rows)
    p = 1 / (1 + np.exp(-z - offsets[codes] - level))
    return z, (draw.random(rows) < p).astype(float), codes


def fitted(z, labels, codes, size, weights=None, known=None):
    return shrunken(
        z,
        labels,
        np.ones(len(z)) if weights is None else weights,
        codes.astype(np.int32),
        np.ones(size, bool) if known is None else known,
    )


@settings(max_examples=30)
@given(seed=st.integers(0, 500), level=st.floats(-0.5, 0.5))
def test_slice_offsets_reduce_the_error_of_predictions(seed, level):
    draw = np.random.default_rng(seed)
    true = draw.normal(0, 0.4, 40)
    z, labels, codes = drawn(draw, true, 6000, level)
    offsets = fitted(z, labels, codes, 40)
    expected = true - true.mean()
    assert np.square(offsets - expected).mean() < np.square(expected).mean()
    # The level of one day is no property of a value.
    assert abs(offsets.mean()) < 0.15


def test_offsets_of_equal_values_shrink_to_about_zero():
    sizes = []
    for seed in range(40):
        draw = np.random.default_rng(seed)
        z, labels, codes = drawn(draw, np.zeros(12), 6000, level=0.3)
        sizes.append(np.abs(fitted(z, labels, codes, 12)).max())
    assert np.median(sizes) < 0.02  # an unshrunken offset would be off by 0.1 to 0.2
    assert np.mean(np.array(sizes) == 0) > 0.3


def test_offsets_shrink_less_for_values_with_more_rows():
    draw = np.random.default_rng(1)
    true = np.array([0.5, -0.5, 0.3, -0.3, 0.8])
    z, labels, codes = drawn(draw, true, 300_000)
    offsets = fitted(z, labels, codes, 5)
    assert offsets - offsets.mean() == pytest.approx(true - true.mean(), abs=0.03)
    few = np.concatenate([np.flatnonzero(codes != 4), np.flatnonzero(codes == 4)[:20]])
    assert abs(fitted(z[few], labels[few], codes[few], 5)[4]) < 0.6


def test_scaling_all_weights_does_not_change_offsets():
    draw = np.random.default_rng(2)
    z, labels, codes = drawn(draw, draw.normal(0, 0.4, 8), 5000)
    once = fitted(z, labels, codes, 8)
    assert fitted(z, labels, codes, 8, weights=np.full(5000, 7.0)) == pytest.approx(once, abs=1e-6)


def test_offsets_are_zero_for_values_without_rows_and_for_oov():
    draw = np.random.default_rng(3)
    z, labels, codes = drawn(draw, np.array([0.8, -0.8, 0.8, -0.8]), 8000)
    labels[codes == 3] = 0
    known = np.array([True, False, True, True, True])
    offsets = fitted(z, labels, codes, 5, known=known)
    assert offsets[1] == 0
    assert offsets[4] == 0
    assert np.isfinite(offsets).all()
    assert offsets[3] < -1
    assert not fitted(z, labels, np.zeros(8000, int), 5).any()  # one value only


ENSEMBLE = {
    "members": ["logistic_regression", "gradient_boosted_trees"],
    "parameters": {"gradient_boosted_trees": {"trees": 5}},
}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("logistic_regression", {}), ("gradient_boosted_trees", {"trees": 5}), ("ensemble", ENSEMBLE)],
)
def test_exported_graphs_apply_the_offsets_of_the_model(featurized, task_of, name, parameters):
    def train(**changes):
        # The model trains too little to learn the values by itself.
        config = Train(batch_size=4096, epochs=1, learning_rate=1e-4, **changes)
        model = Model(architecture=name, embedding_l2=1, parameters=parameters)
        task = task_of(featurized, model, config, output=f"out-{config.calibration}")
        metrics = run(task).metrics
        return task.output, load_model(task.output / "model"), metrics

    rows = pq.read_table(split_files(featurized, "evaluate")[0])
    folder, model, metrics = train(calibration="by_slice", calibration_slices=("user",))
    _, plain, _ = train(calibration="rate")
    calibration = load_card(folder / "model").calibration
    assert metrics["calibration"] == calibration.model_dump(mode="json")
    offsets = np.array(calibration.offsets[0].values)
    assert len(offsets) == 50
    assert offsets[1] == 0  # out of vocabulary
    assert np.abs(offsets).max() > 0.2

    def logits(p):
        return np.log(p / (1 - p))

    predicted = model.predict(rows)
    moved = logits(predicted) - logits(plain.predict(rows))
    assert moved == pytest.approx(offsets[rows["user"].to_numpy()], abs=1e-4)

    write_graph(model, folder / "model.onnx")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    feed = {entry.name: rows[entry.name].to_numpy() for entry in session.get_inputs()}
    assert session.run(["probability"], feed)[0] == pytest.approx(predicted, abs=1e-6)

    def error(p):
        user, label = rows["user"].to_numpy(), rows[LABEL].to_numpy()
        return np.abs(np.bincount(user, p - label)).sum() / label.sum()

    assert error(predicted) < error(plain.predict(rows))


def test_offsets_are_added_after_the_calibration_curve(featurized, task_of):
    task = task_of(
        featurized,
        Model(architecture="deep", embedding_l2=1),
        Train(batch_size=256, epochs=1, calibration="by_slice", calibration_slices=("user",)),
    )
    run(task)
    model = load_model(task.output / "model")
    offsets = model.card.calibration.offsets
    curved = Calibration(knots=((-4.0, -3.0), (0.0, 0.5)), offsets=offsets)
    model.card = model.card.model_copy(update={"calibration": curved})
    rows = pq.read_table(split_files(featurized, "evaluate")[0])
    write_graph(model, task.output / "model.onnx")
    session = onnxruntime.InferenceSession(task.output / "model.onnx")
    feed = {entry.name: rows[entry.name].to_numpy() for entry in session.get_inputs()}
    assert session.run(["probability"], feed)[0] == pytest.approx(model.predict(rows), abs=2e-6)


def test_calibration_slices_without_a_served_id_are_rejected(featurized, task_of):
    requested = asked_candidate(task_of(featurized, Model(architecture="deep")))
    fields = {name: getattr(requested.fit, name) for name in Fit.model_fields}
    from nightbid.training.job import FitJob, run_job

    for name in ("place", "price", "nothing"):
        train = Train(calibration="by_slice", calibration_slices=(name,), epochs=1)
        job = FitJob(**{**fields, "train": train, "slices": {name: 0}}, featurized=featurized,
                  output=featurized / "none")  # fmt: skip
        with pytest.raises(ConfigError, match=f"'{name}' does not give one id"):
            run_job(job, progress=lambda *_: None, watch=lambda *_: None)
    assert not (featurized / "none").exists()


PIPELINE = """
pipeline: small
features:
  device_type: vocabulary
  age: {transform: numeric}
  position: {transform: identity, size: 16, training_only: true}
"""


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("calibration: by_slice", "needs at least one feature"),
        ("calibration_slices: [device_type]", "other values need none"),
        ("{calibration: by_slice, calibration_slices: [devices]}", "names 'devices', and features"),
        ("{calibration: by_slice, calibration_slices: [age]}", "is a numeric"),
        ("{calibration: by_slice, calibration_slices: [position]}", "is training_only"),
    ],
)
def test_invalid_calibration_slices_are_rejected(block, message):
    text = block if block.startswith("{") else "{" + block + "}"
    with pytest.raises(ConfigError, match=message):
        parse_pipeline(f"{PIPELINE}train: {text}\n", "small.yaml")


def test_calibration_by_slice_is_rejected_for_value_labels():
    text = PIPELINE + (
        "label: {kind: value, column: spent}\n"
        "train: {calibration: by_slice, calibration_slices: [device_type]}\n"
    )
    with pytest.raises(ConfigError, match="fits probabilities"):
        parse_pipeline(text, "small.yaml")


def test_streamed_training_fits_offsets(featurized, task_of):
    task = task_of(
        featurized,
        Model(architecture="logistic_regression", embedding_l2=1),
        Train(batch_size=4096, epochs=1, learning_rate=1e-4, memory_gb=1e-5,
              calibration="by_slice", calibration_slices=("user",)),
    )  # fmt: skip
    assert run(task).metrics["memory"]["streams"]
    offsets = load_card(task.output / "model").calibration.offsets
    assert [entry.input for entry in offsets] == ["user"]
    assert np.abs(offsets[0].values).max() > 0.2
