"""Layout of featurized rows: from columns to the three matrices that every model reads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nightbid.column_parsing import whole
from nightbid.counts import counted
from nightbid.errors import MissingDataError
from nightbid.schema import FeatureSchema, ModelInput

Int32s = npt.NDArray[np.int32]
Floats32 = npt.NDArray[np.float32]
BLOCK = 4096
"""Number of rows that are filled column by column, chosen to fit in the processor's cache."""


@dataclass(frozen=True)
class Packed:
    """Model inputs of some rows as matrices."""

    ids: Int32s
    """[rows, places]: concatenated ids, bags and sequences, in schema order."""
    numbers: Floats32
    """[rows, floats], in schema order."""
    bag_weights: Floats32
    """[rows, places of bags], in schema order."""

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def joined(cls, parts: list[Packed]) -> Packed:
        """Concatenate parts."""
        return cls(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.numbers for part in parts]),
            np.concatenate([part.bag_weights for part in parts]),
        )

    def take(self, rows: npt.NDArray[np.int64] | slice) -> Packed:
        """Select rows in the given order: a copy for an array of indices, a view for a slice."""
        return Packed(
            some_rows(self.ids, rows),
            some_rows(self.numbers, rows),
            some_rows(self.bag_weights, rows),
        )


def some_rows(values: npt.NDArray[Any], rows: npt.NDArray[np.int64] | slice) -> npt.NDArray[Any]:
    """Select rows in the given order: a copy for an array of indices, a view for a slice."""
    # `take` copies whole rows; indexing by an array copies single numbers, at a fifth of the speed.
    return values[rows] if isinstance(rows, slice) else values.take(rows, axis=0)


@dataclass(frozen=True)
class Layout:
    """Maps each input to its place in the matrices and its ids to rows of the fused table."""

    schema: FeatureSchema

    @cached_property
    def numbers(self) -> tuple[ModelInput, ...]:
        """Inputs with float values."""
        return tuple(field for field in self.schema.inputs if field.kind == "float")

    @cached_property
    def lookups(self) -> tuple[ModelInput, ...]:
        """Inputs with ids: single ids, bags and sequences."""
        return tuple(field for field in self.schema.inputs if field.kind != "float")

    @cached_property
    def places(self) -> dict[str, slice]:
        """Input → its columns in `Packed.ids`."""
        return _slices((lookup.name, width(lookup)) for lookup in self.lookups)

    @cached_property
    def bag_places(self) -> dict[str, slice]:
        """Bag → its columns in `Packed.bag_weights`."""
        return _slices(
            (lookup.name, lookup.length) for lookup in self.lookups if lookup.kind == "bag"
        )

    @cached_property
    def _shared(self) -> dict[str, tuple[int, int]]:
        """Vocabulary → (first row in the fused table, number of rows)."""
        sizes: dict[str, int] = {}
        for lookup in self.lookups:
            name = vocabulary_of(lookup)
            sizes[name] = max(sizes.get(name, 0), lookup.size)
        rows, start = {}, 0
        for name, size in sizes.items():
            rows[name] = (start, size)
            start += size
        return rows

    def rows_of(self, name: str) -> tuple[int, int]:
        """Return the first row and the number of rows of an input's ids in the fused table."""
        return self._shared[next(vocabulary_of(e) for e in self.lookups if e.name == name)]

    @cached_property
    def offsets(self) -> Int32s:
        """[places]: offset added to an id to get its row in the fused table."""
        parts = [np.full(width(lookup), self.rows_of(lookup.name)[0]) for lookup in self.lookups]
        return np.concatenate([*parts, np.zeros(0)]).astype(np.int32)

    @cached_property
    def table_rows(self) -> int:
        """Number of rows of the fused table."""
        return sum(size for _, size in self._shared.values())

    @cached_property
    def training_only_places(self) -> Int32s:
        """Columns of `Packed.ids` that belong to training-only inputs."""
        columns = [
            place
            for lookup in self.lookups
            if lookup.training_only
            for place in range(self.places[lookup.name].start, self.places[lookup.name].stop)
        ]
        return np.asarray(columns, np.int32)

    @cached_property
    def training_only_numbers(self) -> Int32s:
        """Columns of `Packed.numbers` that belong to training-only inputs."""
        columns = [at for at, number in enumerate(self.numbers) if number.training_only]
        return np.asarray(columns, np.int32)

    @cached_property
    def served(self) -> tuple[ModelInput, ...]:
        """Inputs that are known at serving: all except the training-only ones."""
        return tuple(field for field in self.schema.inputs if not field.training_only)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of `Packed`: 4 for each id, float and weight of a bag's item."""
        return 4 * sum(int(array.shape[1]) for array in vars(self.blank(0)).values())

    def columns(self) -> list[str]:
        """Return the names of the featurized columns that the model reads."""
        names = []
        for field in self.schema.inputs:
            names.append(field.name)
            if field.kind == "bag":
                names.append(weight_column(field.name))
        return names

    def pack(self, table: pa.Table, *, serving: bool) -> Packed:
        """Read the model inputs of featurized rows.

        Args:
            table: Featurized rows; other columns are ignored.
            serving: Whether to set training-only inputs to their serving constant, 0.

        Raises:
            MissingDataError: A column is missing.
        """
        packed = self.blank(len(table))
        self.fill(packed, table, serving=serving)
        return packed

    def blank(self, rows: int) -> Packed:
        """Create matrices of zeros, to be filled."""
        return Packed(
            np.zeros((rows, len(self.offsets)), np.int32),
            np.zeros((rows, len(self.numbers)), np.float32),
            np.zeros((rows, sum(map(_extent, self.bag_places.values()))), np.float32),
        )

    def fill(self, packed: Packed, table: pa.Table, *, serving: bool) -> None:
        """Read the model inputs of featurized rows into blank matrices with as many rows.

        Args:
            packed: Blank matrices to fill.
            table: Featurized rows; other columns are ignored.
            serving: Whether to set training-only inputs to their serving constant, 0.

        Raises:
            MissingDataError: A column is missing.
        """
        columns: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = []
        for field in self.lookups:
            if not (serving and field.training_only):
                ids = _matrix(table, field.name, width(field), np.int32)
                columns.append((packed.ids[:, self.places[field.name]], ids))
            if field.kind == "bag":
                weights = _matrix(table, weight_column(field.name), field.length, np.float32)
                columns.append((packed.bag_weights[:, self.bag_places[field.name]], weights))
        for at, field in enumerate(self.numbers):
            if not (serving and field.training_only):
                values = _matrix(table, field.name, 1, np.float32)
                columns.append((packed.numbers[:, at : at + 1], values))
        for start in range(0, len(table), BLOCK):
            for target, values in columns:
                target[start : start + BLOCK] = values[start : start + BLOCK]


def width(model_input: ModelInput) -> int:
    """Return the number of ids per row: 1, or the length of a bag or sequence."""
    return model_input.length if model_input.kind in ("bag", "sequence") else 1


def weight_column(name: str) -> str:
    """Return the name of the column with the weights of a bag's items."""
    return f"{name}__weight"


def vocabulary_of(model_input: ModelInput) -> str:
    """Return the key of an input's embeddings: inputs with the same vocabulary share it."""
    return (
        f"vocabulary {model_input.vocabulary}"
        if model_input.vocabulary
        else f"input {model_input.name}"
    )


def column_values(
    column: pa.ChunkedArray | pa.Array, dtype: type[np.int32] | type[np.float32]
) -> npt.NDArray[np.generic]:
    """Read a column's values as a flat array, with lists flattened."""
    array = whole(column)
    while pa.types.is_fixed_size_list(array.type) or pa.types.is_list(array.type):
        array = array.flatten()
    return np.asarray(array.to_numpy(zero_copy_only=False)).astype(dtype, copy=False)


def featurized_column(table: pa.Table, name: str) -> pa.ChunkedArray:
    """Return a column of featurized rows.

    Raises:
        MissingDataError: The column is missing.
    """
    if name not in table.column_names:
        raise MissingDataError(
            f"model input {name!r} is missing",
            where="featurized rows",
            hint="featurize these rows with the features that the model was trained with",
        )
    return table[name]


def _matrix(
    table: pa.Table, name: str, columns: int, dtype: type[np.int32] | type[np.float32]
) -> npt.NDArray[np.generic]:
    values = column_values(featurized_column(table, name), dtype)
    if len(values) != len(table) * columns:
        raise MissingDataError(
            f"{counted(len(values), 'value')} in {counted(len(table), 'row')}, where each has"
            f" {columns}",
            where=f"model input {name!r}",
            hint="featurize these rows with the features that the model was trained with",
        )
    return values.reshape(len(table), columns)


def _slices(widths: object) -> dict[str, slice]:
    slices: dict[str, slice] = {}
    start = 0
    for name, size in widths:  # type: ignore[attr-defined]
        slices[name] = slice(start, start + size)
        start += size
    return slices


def _extent(places: slice) -> int:
    return int(places.stop - places.start)
