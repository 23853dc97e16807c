"""A fitted model as files: `model.json` and the weights beside it."""

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
"""Moments of the optimizer, beside the weights of a model that a later night goes on with."""
PROBABILITY = "probability"
"""Output of an exported graph: calibrated, of the label."""
Array = npt.NDArray[Any]


class ModelCard(BaseModel):
    """Everything but the weights: enough to build the model again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: str
    embedding_dim: int
    embedding_l2: float = 0.0
    parameters: dict[str, Any]
    """Hyperparameters, defaults included."""
    prior: float
    """Logit of the training rows' label rate, or log of their mean value: every model starts from
    it."""
    tasks: tuple[str, ...] = ()
    """Of a multi-task model: columns of the label's condition and of the label."""
    task_priors: tuple[float, ...] = ()
    """Logits of the rates of the condition, and of the label where that held. Of a zero-inflated
    log-normal: where its three outputs start."""
    value: ValueHead | None = None
    """Of a model that predicts values instead of probabilities."""
    features: FeatureSchema
    calibration: Calibration = Calibration()

    @property
    def output(self) -> str:
        """Output of the exported graph."""
        return PROBABILITY if self.value is None else VALUE


def task_output(column: str) -> str:
    """Output of an exported graph for one task of a multi-task model."""
    return f"{PROBABILITY}_{column}"


def save_card(card: ModelCard, folder: Path) -> None:
    """Write `model.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").write_text(card.model_dump_json(indent=1))


def load_card(folder: Path) -> ModelCard:
    """Read `model.json`.

    Raises:
        MissingDataError: it is not there.
        CorruptDataError: it is something else.
    """
    path = folder / "model.json"
    try:
        return ModelCard.model_validate_json(path.read_text())
    except FileNotFoundError as error:
        raise MissingDataError(
            "no model.json", where=str(folder), hint="give a folder that a training wrote"
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
    """Write arrays by name; equal arrays give equal bytes (NumPy stamps no times)."""
    np.savez(path, **arrays)  # type: ignore[arg-type]


def load_weights(folder: Path) -> dict[str, Array]:
    """Read what `save_weights` wrote.

    Raises:
        CorruptDataError: the file is truncated or something else.
    """
    return load_arrays(folder / WEIGHTS)


def load_arrays(path: Path) -> dict[str, Array]:
    """Read arrays by name.

    Raises:
        CorruptDataError: the file is truncated or something else.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise CorruptDataError(
            f"unreadable weights: {error}", where=str(path), hint="train it again"
        ) from error
