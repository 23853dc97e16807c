"""Tests the losses of networks that predict values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from nightbid.models.value_losses import log_mean, value_losses
from nightbid.models.values import ValueHead, deviances
from scipy.stats import lognorm

ZILN = ValueHead(distribution="zero_inflated_lognormal", largest=20.0)
TWEEDIE = ValueHead(distribution="tweedie", largest=20.0)


def test_tweedie_loss_is_half_the_scaled_deviance_with_finite_gradients():
    values = np.array([0.0, 1.0, 50.0, 1e6])
    logs = np.log(np.array([3.0, 2.0, 40.0, 7.0]))
    outputs = tf.constant(logs[:, None], tf.float32)
    losses = value_losses(TWEEDIE, outputs, tf.constant(values, tf.float32), math.log(5.0))
    expected = deviances(values / 5, np.exp(logs) / 5) / 2
    assert losses.numpy() == pytest.approx(expected, rel=1e-3)
    with tf.GradientTape() as tape:
        far = tf.Variable([[-500.0], [500.0]])
        loss = tf.reduce_sum(value_losses(TWEEDIE, far, tf.constant([9.0, 0.0]), 0.0))
    assert np.isfinite(loss.numpy())
    assert np.isfinite(tf.convert_to_tensor(tape.gradient(loss, far)).numpy()).all()


def test_zero_inflated_lognormal_matches_likelihood_and_sampled_mean():
    chance, middle, spread = 0.3, 1.2, 0.8
    row = [math.log(chance / (1 - chance)), middle, math.log(math.expm1(spread))]
    outputs = tf.constant([row, row], tf.float32)
    losses = value_losses(ZILN, outputs, tf.constant([0.0, 7.0]), 0.0).numpy()
    assert losses[0] == pytest.approx(-math.log(1 - chance), rel=1e-5)
    density = lognorm.logpdf(7.0, spread, scale=math.exp(middle))
    assert losses[1] == pytest.approx(-math.log(chance) - density, rel=1e-5)
    draw = np.random.default_rng(0)
    sample = (draw.random(400_000) < chance) * np.exp(draw.normal(middle, spread, 400_000))
    mean = math.exp(float(log_mean(ZILN, outputs)[0]))
    assert mean == pytest.approx(sample.mean(), rel=0.02)
