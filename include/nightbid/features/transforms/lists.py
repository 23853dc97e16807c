"""Transforms of lists of values, as a bag or as a sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa

from nightbid.column_parsing import Floats, encode
from nightbid.config.features import Bag, Sequence
from nightbid.counts import counted
from nightbid.features.transforms.transform import bag_columns, implements, matrix_column, one_list
from nightbid.features.transforms.vocabulary import WithVocabulary, frequent
from nightbid.features.values import Items, RawColumns, laid_out, split_items
from nightbid.number_parsing import numbers
from nightbid.schema import ModelInput

if TYPE_CHECKING:  # Not needed to score a bundle.
    from nightbid.features.statistics import Statistic

Listed = TypeVar("Listed", Bag, Sequence)


class ListTransform(WithVocabulary[Listed]):
    """Items of a list, or of a string of separated values."""

    def depends_on(self) -> dict[str, Any] | None:
        """The column and the separator of its values."""
        return {"items": self.column, "separator": self.feature.separator}

    def statistic(self, raw: RawColumns, rows: pa.Table) -> Statistic:
        """Count the items."""
        from nightbid.features.statistics import TokenCounts

        return TokenCounts.of(*encode(self.items(raw).flat))

    def items(self, raw: RawColumns, column: str = "") -> Items:
        """Unroll the feature's column, or another one."""
        return split_items(raw.column(column or self.column, self.name), self.feature.separator)

    @property
    def _separated(self) -> str:
        separator = self.feature.separator
        return "" if separator == "," else f" split by {separator!r}"


@implements(Bag)
class BagTransform(ListTransform[Bag]):
    """The first items of a list, unordered, with weights."""

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """The model input: one bag."""
        feature = self.feature
        return (one_list(self, "bag", self.vocabulary.size, feature.length, self.name),)

    def apply(self, raw: RawColumns) -> dict[str, pa.Array]:
        """Compute the model inputs."""
        items = self.items(raw)
        ids = self.vocabulary.ids(encode(items.flat))
        matrix = laid_out(ids, items, self.feature.length, last=False)
        return bag_columns(self.name, matrix, self._weights(raw, items, len(matrix)))

    def _weights(self, raw: RawColumns, items: Items, rows: int) -> Floats | None:
        """Logged weights in the layout of the ids, float64 [rows, length]; None: equal weights."""
        if not self.feature.weights:
            return None
        weights = self.items(raw, self.feature.weights)
        matrix = np.zeros((rows, self.feature.length))
        # Items without a value, or whose weight is not a positive number, get weight 0.
        known = weights.places < np.minimum(items.counts, self.feature.length)[weights.rows]
        values = np.nan_to_num(np.maximum(numbers(weights.flat), 0.0))
        matrix[weights.rows[known], weights.places[known]] = values[known]
        return matrix

    @property
    def makes(self) -> str:
        """Description of the computation."""
        feature = self.feature
        weights = f"weighted by {feature.weights}" if feature.weights else "of equal weight"
        return (
            f"first {counted(feature.length, 'value')}{self._separated}, {weights},"
            f" of {frequent(feature)}"
        )


@implements(Sequence)
class SequenceTransform(ListTransform[Sequence]):
    """The last items of a list, oldest first."""

    def depends_on(self) -> dict[str, Any] | None:
        """Column and separator; None if the feature shares another one's vocabulary."""
        return None if self.feature.vocabulary else super().depends_on()

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """The model input: one sequence."""
        feature = self.feature
        return (
            one_list(
                self,
                "sequence",
                self.vocabulary.size,
                feature.length,
                feature.vocabulary or self.name,
            ),
        )

    def apply(self, raw: RawColumns) -> dict[str, pa.Array]:
        """Compute the model inputs."""
        items = self.items(raw)
        ids = self.vocabulary.ids(encode(items.flat))
        return {self.name: matrix_column(laid_out(ids, items, self.feature.length, last=True))}

    @property
    def makes(self) -> str:
        """Description of the computation."""
        feature = self.feature
        shared = feature.vocabulary
        known = f"the vocabulary of {shared}" if shared else frequent(feature)
        length = counted(feature.length, "value")
        return f"last {length}{self._separated}, oldest first, of {known}"
