"""Losses of networks that predict values, and the log of their predicted mean."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from nightbid.models.values import ValueHead

FARTHEST = 30.0
"""Maximum distance of a predicted log mean from the prior, so that no loss overflows."""
LEAST_SPREAD = 0.01
"""Lower bound of the standard deviation of the logs of values above 0."""


def value_losses(head: ValueHead, outputs: Any, values: Any, prior: float) -> Any:
    """Compute the loss of each row; float32 [rows].

    The loss is half the Tweedie deviance of power 1.5, in units of the mean value, so that
    penalties weigh the same in cents and in seconds; or it is the negative log likelihood of a
    zero-inflated log-normal (Wang, Liu and Miao, 2019, arXiv 1912.07753).

    Args:
        head: Value head; selects the loss.
        outputs: [rows, outputs], including priors.
        values: [rows], at least 0.
        prior: Log of the mean value of the training rows.
    """
    if head.distribution == "tweedie":
        apart = tf.clip_by_value(outputs[:, 0] - prior, -FARTHEST, FARTHEST)
        shares = values * math.exp(-prior)
        return 2 * (
            shares * tf.exp(-apart / 2) + tf.exp(apart / 2) - 2 * tf.sqrt(tf.maximum(shares, 0.0))
        )
    some = tf.cast(values > 0, tf.float32)
    losses = tf.nn.sigmoid_cross_entropy_with_logits(some, outputs[:, 0])
    logs = tf.math.log(tf.where(values > 0, values, tf.ones_like(values)))
    spread = _spread(outputs)
    far = (logs - outputs[:, 1]) / spread
    density = tf.square(far) / 2 + tf.math.log(spread) + 0.5 * math.log(2 * math.pi) + logs
    return losses + some * density


def log_mean(head: ValueHead, outputs: Any) -> Any:
    """Compute the log of the expected value, [rows, outputs] to [rows].

    For a zero-inflated log-normal, it is log(p·exp(μ + σ²/2)).
    """
    if head.distribution == "tweedie":
        return outputs[:, 0]
    positive = -tf.nn.softplus(-outputs[:, 0])
    return positive + outputs[:, 1] + tf.square(_spread(outputs)) / 2


def _spread(outputs: Any) -> Any:
    return tf.maximum(tf.nn.softplus(outputs[:, 2]), LEAST_SPREAD)
