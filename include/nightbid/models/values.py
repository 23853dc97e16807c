"""Models of values: what their outputs mean, and the deviance that judges them.

A model of a value predicts the log of its mean, so that every calibration and export of logits
applies; `exp` takes the place of the sigmoid.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

Floats = npt.NDArray[np.float64]
Distribution = Literal["zero_inflated_lognormal", "tweedie"]
POWER = 1.5
"""Variance power of the Tweedie deviance: between Poisson, 1, and gamma, 2."""
VALUE = "value"
"""Output of an exported graph of a model of values."""
SMALLEST = 1e-9
"""Predictions below count as this one: the deviance of 0 is not defined."""


class ValueHead(BaseModel):
    """How the outputs of a network or of trees give the expected value."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    distribution: Distribution
    largest: float
    """Log of the largest value that was learned: no prediction is beyond it."""

    @property
    def outputs(self) -> int:
        """Outputs of a network: log mean; or logit of a value above 0, mean and spread of logs."""
        return 3 if self.distribution == "zero_inflated_lognormal" else 1


def deviances(values: Floats, predicted: Floats) -> Floats:
    """Tweedie deviance of power 1.5 of each row, 4·(√y - √μ)²/√μ; float64 [rows]."""
    root = np.sqrt(np.maximum(predicted, SMALLEST))
    return np.asarray(4 * (np.sqrt(values) - root) ** 2 / root)
