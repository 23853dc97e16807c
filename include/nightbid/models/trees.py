"""A fitted model of boosted trees: its inputs, its file, and its predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nightbid.errors import CorruptDataError
from nightbid.models.boosting import lightgbm
from nightbid.models.folder import TREES, ModelCard
from nightbid.models.layout import BLOCK, Floats32, Layout, Packed
from nightbid.schema import ModelInput

SMALL_LIST = 64
"""Maximum number of ids of a list's vocabulary for which each id gets its own column."""


class Trees:
    """A LightGBM booster and its model card."""

    def __init__(self, card: ModelCard, booster: Any) -> None:
        self.card = card
        self.layout = Layout(card.features)
        self.booster = booster

    @classmethod
    def load(cls, card: ModelCard, folder: Path) -> Trees:
        """Load the trees that `save` wrote.

        Raises:
            CorruptDataError: The file cannot be read.
        """
        try:
            return cls(card, lightgbm.Booster(model_str=(folder / TREES).read_text()))
        except (OSError, ValueError, lightgbm.basic.LightGBMError) as error:
            raise CorruptDataError(
                f"unreadable trees: {error}", where=str(folder / TREES), hint="train it again"
            ) from error

    def save(self, folder: Path) -> None:
        """Write the trees up to the best one; equal trees give equal bytes."""
        (folder / TREES).write_text(
            self.booster.model_to_string(num_iteration=self.booster.best_iteration)
        )

    @property
    def parameters(self) -> int:
        """Total number of leaves and splits."""
        trees = self.booster.dump_model(num_iteration=self.booster.best_iteration)["tree_info"]
        return sum(2 * int(tree["num_leaves"]) - 1 for tree in trees)

    def score(self, packed: Packed) -> npt.NDArray[np.float64]:
        """Compute calibrated probabilities, or expected values; float64 [rows]."""
        logits = self.booster.predict(
            tree_matrix(self.layout, packed),
            raw_score=True,
            num_iteration=self.booster.best_iteration,
        )
        calibrated = self.card.calibration.logits(np.asarray(logits, np.float64))
        if (head := self.card.value) is not None:
            return np.exp(np.minimum(calibrated, head.largest))
        calibrated += self.card.calibration.shift(packed.ids, self.layout.places)
        return 1 / (1 + np.exp(-calibrated))

    def predict(self, table: pa.Table) -> npt.NDArray[np.float64]:
        """Score featurized rows as served, with training-only inputs constant."""
        return self.score(self.layout.pack(table, serving=True))

    def predict_as_logged(self, table: pa.Table) -> npt.NDArray[np.float64]:
        """Score featurized rows with the logged training-only inputs."""
        return self.score(self.layout.pack(table, serving=False))

    def predict_tasks(self, table: pa.Table) -> dict[str, npt.NDArray[np.float64]]:
        """Return an empty dict: trees have a single task."""
        return {}


def tree_matrix(layout: Layout, packed: Packed) -> Floats32:
    """Convert inputs to numbers that trees split: float32 [rows, columns].

    An id is used as a number: vocabularies are sorted by frequency, so a split separates frequent
    from rare values. A bag or sequence with a small vocabulary gets a column of 0 and 1 for each
    id; one with a larger vocabulary gets a single column with its number of items.
    """
    parts = [
        _columns(lookup, packed.ids[:, layout.places[lookup.name]]) for lookup in layout.lookups
    ]
    return np.ascontiguousarray(np.concatenate([*parts, packed.numbers], axis=1), np.float32)


def columns_of(model_input: ModelInput) -> int:
    """Return the number of columns that an input has in the tree matrix."""
    return model_input.size - 1 if is_small_list(model_input) else 1


def is_small_list(model_input: ModelInput) -> bool:
    """Return whether each id of a list has its own column; id 0, padding, never has one."""
    return model_input.kind in ("bag", "sequence") and 1 < model_input.size <= SMALL_LIST


def _columns(model_input: ModelInput, ids: npt.NDArray[np.int32]) -> Floats32:
    """Return the columns of one input, [rows, columns], from its ids, [rows, places]."""
    if model_input.kind == "id":
        return np.asarray(ids, np.float32)
    if not is_small_list(model_input):
        return np.asarray((ids > 0).sum(axis=1)[:, None], np.float32)
    indicators = np.zeros((len(ids), model_input.size), np.float32)
    for start in range(0, len(ids), BLOCK):
        np.put_along_axis(
            indicators[start : start + BLOCK], ids[start : start + BLOCK], 1.0, axis=1
        )
    return indicators[:, 1:]
