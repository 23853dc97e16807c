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
from nightbid.models.layout import BLOCK, Floats32, Layout, Packed
from nightbid.schema import ModelInput

SMALL_LIST = 64
"""Ids of a list's vocabulary up to which each has a column of its own."""


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
        """Compute calibrated probabilities, or values; float64 [rows]."""
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
        """Score featurized rows as they are served: training-only inputs are constant."""
        return self.score(self.layout.pack(table, serving=True))

    def predict_as_logged(self, table: pa.Table) -> npt.NDArray[np.float64]:
        """Score featurized rows with the training-only inputs that were logged."""
        return self.score(self.layout.pack(table, serving=False))

    def predict_tasks(self, table: pa.Table) -> dict[str, npt.NDArray[np.float64]]:
        """Trees have one task: none."""
        return {}


def tree_matrix(layout: Layout, packed: Packed) -> Floats32:
    """Arrange inputs for trees, which split numbers: float32 [rows, columns].

    An id counts as a number: vocabularies are sorted by frequency, so a split tells frequent from
    rare values. A bag or a sequence of a small vocabulary has a column of 0 and 1 for each id; of
    a larger one trees see how many items it has.
    """
    parts = [_columns(each, packed.ids[:, layout.places[each.name]]) for each in layout.lookups]
    return np.ascontiguousarray(np.concatenate([*parts, packed.numbers], axis=1), np.float32)


def columns_of(each: ModelInput) -> int:
    """Number of columns that trees see of an input."""
    return each.size - 1 if is_small_list(each) else 1


def is_small_list(each: ModelInput) -> bool:
    """Whether trees see each id of a list in a column of its own; id 0, padding, has none."""
    return each.kind in ("bag", "sequence") and 1 < each.size <= SMALL_LIST


def _columns(each: ModelInput, ids: npt.NDArray[np.int32]) -> Floats32:
    """[rows, columns] of one input, from its ids, [rows, places]."""
    if each.kind == "id":
        return np.asarray(ids, np.float32)
    if not is_small_list(each):
        return np.asarray((ids > 0).sum(axis=1)[:, None], np.float32)
    found = np.zeros((len(ids), each.size), np.float32)
    for start in range(0, len(ids), BLOCK):
        np.put_along_axis(found[start : start + BLOCK], ids[start : start + BLOCK], 1.0, axis=1)
    return found[:, 1:]
