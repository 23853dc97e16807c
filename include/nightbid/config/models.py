"""Models and training: the typed `model`, `baseline`, `train` blocks."""

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
