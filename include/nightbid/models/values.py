"""Models of values: the meaning of their outputs, and the deviance that measures them.

A model of values predicts the log of the mean, so that every calibration and export of logits
applies; `exp` replaces the sigmoid.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

Floats = npt.NDArray[np.float64]
Distribution = Literal["zero_inflated_lognormal", "tweedie"]
POWER = 1.5
"""Variance power of the Tweedie deviance, between Poisson (1) and gamma (2)."""
VALUE = "value"
"""Name of an exported graph's output for a model of values."""
SMALLEST = 1e-9
"""Lower bound of predictions in the deviance, which is undefined at 0."""


class ValueHead(BaseModel):
    """How the outputs of a network or of trees determine the expected value."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    distribution: Distribution
    largest: float
    """Log of the largest training value: an upper bound of predictions."""

    @property
    def outputs(self) -> int:
        """Number of network outputs: 1 (log mean) or 3 (logit of value > 0, mean, spread)."""
        return 3 if self.distribution == "zero_inflated_lognormal" else 1


def deviances(values: Floats, predicted: Floats) -> Floats:
    """Compute the Tweedie deviance of power 1.5 of each row, 4·(√y - √μ)²/√μ; float64 [rows]."""
    root = np.sqrt(np.maximum(predicted, SMALLEST))
    return np.asarray(4 * (np.sqrt(values) - root) ** 2 / root)
