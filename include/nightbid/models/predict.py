"""Load a fitted model of any engine to score featurized rows."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nightbid.models.folder import ModelCard, load_card, load_weights
from nightbid.models.layout import Packed
from nightbid.models.registry import find


class FittedModel(Protocol):
    """Interface of a model for evaluation and export."""

    card: ModelCard

    def predict(self, table: pa.Table) -> npt.NDArray[np.float64]:
        """Compute calibrated probabilities of featurized rows, float64 [rows]."""

    def predict_as_logged(self, table: pa.Table) -> npt.NDArray[np.float64]:
        """Compute calibrated probabilities with the logged training-only inputs (the position)."""

    def score(self, packed: Packed) -> npt.NDArray[np.float64]:
        """Compute calibrated probabilities of packed inputs, float64 [rows]."""

    def predict_tasks(self, table: pa.Table) -> dict[str, npt.NDArray[np.float64]]:
        """Compute probabilities per task of a multi-task model, column → [rows]; else empty."""


def load_model(folder: Path) -> FittedModel:
    """Load a model from the `model/` folder that a training wrote.

    Raises:
        MissingDataError: The folder contains no model.
        CorruptDataError: The files are damaged, or were written by another version.
    """
    card = load_card(folder)
    engine = find(card.architecture).engine
    if engine == "ensemble":
        from nightbid.models.ensemble import Ensemble

        return Ensemble.load(card, folder)
    if engine == "lightgbm":
        from nightbid.models.trees import Trees

        return Trees.load(card, folder)
    from nightbid.models.network import Network

    network = Network(card)
    network.assign(load_weights(folder))
    return network
