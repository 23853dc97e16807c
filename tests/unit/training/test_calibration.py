"""Platt calibration, and the TensorBoard logs of a training."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nightbid.config.models import Model, Train
from nightbid.models.folder import Calibration, load_card
from nightbid.models.layout import Packed
from nightbid.training.calibration import platt
from nightbid.training.data import Examples
from nightbid.training.stage import run

EMPTY = np.zeros((0, 0))


def rows_of(labels, weights=None):
    labels = np.asarray(labels, np.float32)
    ones = np.ones_like(labels)
    return Examples(Packed(EMPTY, EMPTY, EMPTY), labels, ones if weights is None else weights, ones)


def log_loss(z, rows):
    w = rows.weights / rows.weights.sum()
    return float(w @ (np.logaddexp(0, z) - rows.labels * z))


@given(
    slope=st.floats(0.3, 3), intercept=st.floats(-2, 2), seed=st.integers(0, 1000),
    rate=st.floats(0.1, 1),
)  # fmt: skip
def test_predictions_add_up_to_the_labels_and_the_loss_falls(slope, intercept, seed, rate):
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


def test_a_known_line_is_found():
    draw = np.random.default_rng(1)
    z = draw.normal(-1, 1.5, 200_000)
    labels = draw.random(len(z)) < 1 / (1 + np.exp(-(0.7 * z - 0.4)))
    line = platt(1 / (1 + np.exp(-z)), rows_of(labels))
    assert line.slope == pytest.approx(0.7, abs=0.02)
    assert line.intercept == pytest.approx(-0.4, abs=0.02)


def test_rows_that_cannot_tell_change_nothing():
    assert platt(np.array([0.1, 0.2]), rows_of([0, 0])) == Calibration()
    assert platt(np.array([0.1, 0.1]), rows_of([0, 1])) == Calibration()


@pytest.mark.parametrize("name", ["deep", "gradient_boosted_trees"])
def test_a_pipeline_asks_for_it(featurized, task_of, name):
    train = Train(batch_size=256, epochs=1, calibration="platt")
    task = task_of(featurized, Model(architecture=name, embedding_l2=1), train)
    metrics = run(task).metrics
    assert metrics["calibration"] == load_card(task.output / "model").calibration.model_dump()
    assert metrics["calibration"]["slope"] != 1


def test_tensorboard_shows_each_epoch(featurized, task_of):
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
    assert [each.step for each in events.Tensors("validation/log_loss")] == [1, 2]
