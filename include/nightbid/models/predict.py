"""Open a fitted model, of whichever engine, to score featurized rows."""

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
    """What evaluation and export need of a model."""

    card: ModelCard

    def predict(self, table: pa.Table) -> npt.NDArray[np.float64]:
        """Compute calibrated probabilities of featurized rows, float64 [rows]."""

    def predict_as_logged(self, table: pa.Table) -> npt.NDArray[np.float64]:
        """Compute those with the training-only inputs (the position) as they were logged."""

    def score(self, packed: Packed) -> npt.NDArray[np.float64]:
        """Compute calibrated probabilities of packed inputs, float64 [rows]."""

    def predict_tasks(self, table: pa.Table) -> dict[str, npt.NDArray[np.float64]]:
        """Compute those of each task of a multi-task model; none of another."""


def load_model(folder: Path) -> FittedModel:
    """Open the `model/` folder that a training wrote.

    Raises:
        MissingDataError: there is none.
        CorruptDataError: its files are damaged, or of another version.
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
