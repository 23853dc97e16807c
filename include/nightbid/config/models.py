"""Models and training: the typed `model`, `baseline`, `train` blocks."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from nightbid.config.base import Block


class Model(Block):
    """Which registered architecture, with its own hyperparameters."""

    architecture: str = "dcn_v2"
    """One of `nightbid.models.architectures`, or of `tree_architectures`."""
    embedding_dim: int = Field(default=16, ge=1)
    """Length of the vector of each category."""
    embedding_l2: float = Field(default=100.0, ge=0)
    """½·l2·w² per embedding weight is added to the log loss of all training rows: a normal prior
    with standard deviation 1/√l2."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """The architecture's own settings."""


class Train(Block):
    """How a model is fitted."""

    batch_size: int = Field(default=2048, ge=1)
    """Rows per step."""
    epochs: int = Field(default=3, ge=1)
    """Passes over the training rows, at most."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """At its highest."""
    schedule: Literal["constant", "cosine", "linear"] = "linear"
    """How the learning rate goes from its full value to 0 at the last epoch's end."""
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """Share of all steps in which the learning rate rises from 0 first."""
    reset_tables: Literal["none", "each_epoch"] = "none"
    """When embedding tables start over: `each_epoch` gives every epoch fresh embeddings while the
    other layers go on learning (MEDA), so that ids cannot be overfitted over many epochs."""
    average: float = Field(default=0.0, ge=0, lt=1)
    """Decay per step of an exponential moving average of the weights, for example 0.99. The average
    is validated and served. 0 serves the weights of the last step."""
    patience: int = Field(default=1, ge=0)
    """Epochs without a better validation log loss before training ends."""
    calibration: Literal["none", "platt", "isotonic"] = "none"
    """Fitted on validation rows after training: a line over the logits, or a rising curve."""
    sampling_correction: bool = False
    """Learn sampled negatives without their weight, and undo the sampling in the probability:
    q = p / (p + (1 - p)/w), w the share of negatives kept. False: learn them with their weight."""
    positive_weight: float = Field(default=1.0, gt=0)
    """How often a positive counts in training; undone in the probability in the same way."""
    checkpoint_seconds: float = Field(default=60.0, ge=0)
    """Between checkpoints: what a killed training has to do again at most."""
    warm_start: bool = False
    """Begin with the champion's weights and moments, remapped by key; see `training.warm`."""
    workers: int = Field(default=1, ge=1, le=64)
    """Processes that share each batch; see `nightbid.training.workers`."""
    seed: int = 0
