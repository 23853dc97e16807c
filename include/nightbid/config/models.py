"""Models, training and evaluation: the typed `model`, `baseline`, `train`, `evaluate` blocks."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from nightbid.config.base import Block


class Model(Block):
    """Which registered architecture, with its own hyperparameters."""

    architecture: str = "dcn_v2"
    embedding_dim: int = Field(default=16, ge=1)
    parameters: dict[str, Any] = Field(default_factory=dict)


class Train(Block):
    """How a model is fitted."""

    batch_size: int = Field(default=2048, ge=1)
    epochs: int = Field(default=3, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    patience: int = Field(default=1, ge=0)
    seed: int = 0


class Evaluate(Block):
    """How candidate and champion are compared."""

    slices: tuple[str, ...] = ()
    bootstrap: int = Field(default=200, ge=0)
    margin_ne: float = Field(default=0.002, ge=0)
