"""A fitted model as files: `model.json` and the weights next to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from nightbid.errors import CorruptDataError, MissingDataError
from nightbid.models.calibration import Calibration
from nightbid.models.values import VALUE, ValueHead
from nightbid.schema import FeatureSchema

WEIGHTS = "weights.npz"
TREES = "trees.txt"
SLOTS = "optimizer.npz"
"""Optimizer state, next to the weights of a model that a later night continues training."""
PROBABILITY = "probability"
"""Name of an exported graph's output for the calibrated probability of the label."""
Array = npt.NDArray[Any]


class ModelCard(BaseModel):
    """Everything about a model except its weights: enough to build it again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: str
    embedding_dim: int
    embedding_l2: float = 0.0
    parameters: dict[str, Any]
    """Hyperparameters, including defaults."""
    prior: float
    """Logit of the training rows' label rate, or log of their mean value: the model's initial
    output."""
    tasks: tuple[str, ...] = ()
    """Columns of the label's condition and of the label; empty unless the model is multi-task."""
    task_priors: tuple[float, ...] = ()
    """Initial logits of a multi-task model: of the condition's rate, and of the label's rate where
    the condition held. For a zero-inflated log-normal, the initial values of its three outputs."""
    value: ValueHead | None = None
    """Describes the outputs of a model that predicts values; None for probabilities."""
    features: FeatureSchema
    calibration: Calibration = Calibration()

    @property
    def output(self) -> str:
        """Name of the exported graph's main output."""
        return PROBABILITY if self.value is None else VALUE


def task_output(column: str) -> str:
    """Return the name of an exported graph's output for one task of a multi-task model."""
    return f"{PROBABILITY}_{column}"


def save_card(card: ModelCard, folder: Path) -> None:
    """Write `model.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").write_text(card.model_dump_json(indent=1))


def load_card(folder: Path) -> ModelCard:
    """Read `model.json`.

    Raises:
        MissingDataError: The file does not exist.
        CorruptDataError: The file does not describe a model.
    """
    path = folder / "model.json"
    try:
        return ModelCard.model_validate_json(path.read_text())
    except FileNotFoundError as error:
        raise MissingDataError(
            "no model.json", where=str(folder), hint="use a folder that a training wrote"
        ) from error
    except ValidationError as error:
        raise CorruptDataError(
            f"not a model: {error.errors()[0]['msg']}", where=str(path), hint="train it again"
        ) from error


def save_weights(weights: dict[str, Array], folder: Path) -> None:
    """Write the weights of a model."""
    folder.mkdir(parents=True, exist_ok=True)
    save_arrays(weights, folder / WEIGHTS)


def save_arrays(arrays: dict[str, Array], path: Path) -> None:
    """Write arrays by name; equal arrays give equal bytes (NumPy stores no timestamps)."""
    np.savez(path, **arrays)  # type: ignore[arg-type]


def load_weights(folder: Path) -> dict[str, Array]:
    """Read what `save_weights` wrote.

    Raises:
        CorruptDataError: The file is truncated or not an archive of arrays.
    """
    return load_arrays(folder / WEIGHTS)


def load_arrays(path: Path) -> dict[str, Array]:
    """Read arrays by name.

    Raises:
        CorruptDataError: The file is truncated or not an archive of arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise CorruptDataError(
            f"unreadable weights: {error}", where=str(path), hint="train it again"
        ) from error
