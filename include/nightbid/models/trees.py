"""A fitted ensemble of trees: its inputs, its file, its scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nightbid.errors import CorruptDataError
from nightbid.models.folder import TREES, ModelCard
from nightbid.models.layout import Floats32, Layout, Packed


class Trees:
    """A LightGBM booster and the card it was made from."""

    def __init__(self, card: ModelCard, booster: Any) -> None:
        self.card = card
        self.layout = Layout(card.features)
        self.booster = booster

    @classmethod
    def load(cls, card: ModelCard, folder: Path) -> Trees:
        """Open what `save` wrote.

        Raises:
            CorruptDataError: it is something else.
        """
        try:
            return cls(card, lightgbm.Booster(model_str=(folder / TREES).read_text()))
        except (OSError, ValueError, lightgbm.basic.LightGBMError) as error:
            raise CorruptDataError(
                f"unreadable trees: {error}", where=str(folder / TREES), hint="train it again"
            ) from error

    def save(self, folder: Path) -> None:
        """Write the trees up to the best one; equal trees are equal bytes."""
        (folder / TREES).write_text(
            self.booster.model_to_string(num_iteration=self.booster.best_iteration)
        )

    @property
    def parameters(self) -> int:
        """Number of leaves and splits."""
        trees = self.booster.dump_model(num_iteration=self.booster.best_iteration)["tree_info"]
        return sum(2 * int(each["num_leaves"]) - 1 for each in trees)

    def score(self, packed: Packed) -> npt.NDArray[np.float64]:
        """Compute calibrated probabilities, float64 [rows]."""
        logits = self.booster.predict(
            tree_matrix(self.layout, packed),
            raw_score=True,
            num_iteration=self.booster.best_iteration,
        )
        return 1 / (1 + np.exp(-self.card.calibration.logits(np.asarray(logits, np.float64))))

    def predict(self, table: pa.Table) -> npt.NDArray[np.float64]:
        """Score featurized rows as they are served: training-only inputs are constant."""
        return self.score(self.layout.pack(table, serving=True))

    def predict_tasks(self, table: pa.Table) -> dict[str, npt.NDArray[np.float64]]:
        """Trees have one task: none."""
        return {}


def tree_matrix(layout: Layout, packed: Packed) -> Floats32:
    """Arrange inputs for trees, which split numbers: float32 [rows, lookups + floats].

    An id counts as a number: vocabularies are sorted by frequency, so a split tells frequent from
    rare values. Of a bag or a sequence trees see how many items it has.
    """
    columns = [_column(packed.ids[:, layout.places[each.name]], each.kind == "id")
               for each in layout.lookups]  # fmt: skip
    parts = [each[:, None] for each in columns] + [packed.numbers]
    return np.ascontiguousarray(np.concatenate(parts, axis=1), np.float32)


def _column(ids: npt.NDArray[np.int32], single: bool) -> Floats32:
    values = ids[:, 0] if single else (ids > 0).sum(axis=1)
    return np.asarray(values, np.float32)
