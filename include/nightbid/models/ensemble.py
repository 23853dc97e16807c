"""A fitted ensemble: its members, the weights of their logits, and its predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nightbid.errors import CorruptDataError
from nightbid.models.folder import ModelCard
from nightbid.models.layout import Layout, Packed
from nightbid.models.predict import FittedModel, load_model

MEMBERS = "members"
FILE = "weights.json"
TINY = 1e-7
"""Probabilities are clipped to this distance from 0 and 1, so that logits are finite."""

Floats = npt.NDArray[np.float64]


class Ensemble:
    """Members and the weights of their logits, which are at least 0 and add up to 1."""

    def __init__(
        self, card: ModelCard, members: Mapping[str, FittedModel], weights: Mapping[str, float]
    ) -> None:
        self.card = card
        self.layout = Layout(card.features)
        self.members = dict(members)
        self.weights = dict(weights)

    @classmethod
    def load(cls, card: ModelCard, folder: Path) -> Ensemble:
        """Load an ensemble from the files that `save` and the members' trainings wrote.

        Raises:
            CorruptDataError: The weights cannot be read.
        """
        try:
            weights = json.loads((folder / FILE).read_text())
            names = list(weights)
        except (OSError, ValueError, TypeError) as error:
            raise CorruptDataError(
                f"unreadable weights: {error}", where=str(folder / FILE), hint="train it again"
            ) from error
        return cls(card, {name: load_model(folder / MEMBERS / name) for name in names}, weights)

    def save(self, folder: Path) -> None:
        """Write the weights; the members' own trainings wrote the members."""
        (folder / FILE).write_text(json.dumps(self.weights, indent=1))

    def score(self, packed: Packed) -> Floats:
        """Compute calibrated probabilities, float64 [rows]."""
        scores = {name: model.score(packed) for name, model in self.members.items()}
        mixed = sum(self.weights[name] * logits(score) for name, score in scores.items())
        calibration = self.card.calibration
        calibrated = calibration.logits(np.asarray(mixed, np.float64))
        calibrated += calibration.shift(packed.ids, self.layout.places)
        return 1 / (1 + np.exp(-calibrated))

    def predict(self, table: pa.Table) -> Floats:
        """Score featurized rows as served, with training-only inputs constant."""
        return self.score(self.layout.pack(table, serving=True))

    def predict_as_logged(self, table: pa.Table) -> Floats:
        """Score featurized rows with the logged training-only inputs."""
        return self.score(self.layout.pack(table, serving=False))

    def predict_tasks(self, table: pa.Table) -> dict[str, Floats]:
        """Return an empty dict: an ensemble has a single task."""
        return {}


def logits(probabilities: Floats) -> Floats:
    """Compute log odds, [rows], of probabilities clipped away from 0 and 1."""
    p = np.clip(probabilities, TINY, 1 - TINY)
    return np.log(p) - np.log1p(-p)
