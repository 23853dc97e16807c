"""What every transform is: one class with all that Nightbid does with a feature.

A class is decorated with the settings that it implements. Subclasses of others share code::

    @implements(Hash)
    class HashTransform(Hashed[Hash]):
        ...
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nightbid.config.features import FeatureBlock
from nightbid.features.state import FittedState
from nightbid.features.values import Floats32, Int32s, RawColumns
from nightbid.schema import ModelInput

if TYPE_CHECKING:  # Not needed where a bundle is scored.
    from nightbid.features.statistics import Statistic
    from nightbid.features.transforms.vocabulary import FittedVocabulary

Settings = TypeVar("Settings", bound=FeatureBlock)
Moment = Literal["day", "time"]
_CLASSES: dict[type[FeatureBlock], type[Transform[Any]]] = {}


@dataclass(frozen=True, eq=False)
class Context:
    """What a transform knows of its pipeline, besides its own settings."""

    features: Mapping[str, FeatureBlock] = field(default_factory=dict)
    """Settings of every feature, by name."""
    learned: Mapping[str, FittedState] = field(default_factory=dict)
    """What the features have learned, by name."""
    time: str = ""
    """Column with the time of the impression."""
    lag_days: int = 0
    """Days until a label is final."""
    zone: str = "UTC"
    """Time zone of the days."""
    vocabularies: dict[str, FittedVocabulary] = field(default_factory=dict)
    """Those made so far: features that share one hold it once."""


@dataclass(frozen=True, eq=False)
class Transform(ABC, Generic[Settings]):
    """A transform, for one feature."""

    name: str
    """The feature's."""
    feature: Settings
    state: FittedState = field(default_factory=FittedState)
    """What it has learned; empty before that."""
    context: Context = field(default_factory=Context)

    learns_history: ClassVar[bool] = False
    """It learns from the rows of every split, and a row is told of earlier rows only."""
    cycle_hours: ClassVar[int] = 0
    """Hours after which its values repeat; rows of a part of them differ by what it is. 0: none."""
    drifts: ClassVar[bool] = False
    """Its values differ between days by definition: one weekday is not five, and history grows
    through the window. Gates compare them with the champion's window instead."""
    varies_within_a_day: ClassVar[bool] = True
    """Of the rows of one day it may have several values."""
    is_log: ClassVar[bool] = False
    """A logarithm: a move of less than a tenth is hardly a move."""

    # Learning.

    def depends_on(self) -> dict[str, Any] | None:
        """Say what its statistic depends on, besides the rows; None if it learns nothing.

        Features with equal answers share one statistic. Settings that are applied to a finished
        statistic (`min_count`, `top_k`, `strength`, `length`, …) are left out: a change of them
        requires no new pass over the rows.
        """
        return None

    def statistic(self, raw: RawColumns, rows: pa.Table) -> Statistic:
        """Compute its statistic of some rows; those of parts merge into that of the whole.

        Args:
            raw: The rows, with columns encoded once for all features.
            rows: The same, with reserved columns.
        """
        raise NotImplementedError(f"{type(self).__name__} learns nothing")

    def fit(self, statistic: Any) -> FittedState:
        """Keep what applying needs of a merged statistic."""
        raise NotImplementedError(f"{type(self).__name__} learns nothing")

    @property
    def most_new_ids(self) -> int:
        """Most ids that learning adds to those that the feature has without it."""
        return 0

    # Applying, the same in Beam, in training and in serving.

    @property
    @abstractmethod
    def inputs(self) -> tuple[ModelInput, ...]:
        """The model inputs that it makes, in order."""

    @abstractmethod
    def apply(self, raw: RawColumns) -> dict[str, pa.Array]:
        """Compute the columns of its inputs, [rows] each, in order."""

    @property
    def vocabulary(self) -> FittedVocabulary | None:
        """The vocabulary of its ids; None if it has none."""
        return None

    @property
    def reads_time(self) -> Moment | None:
        """What it reads of the row's time, besides its columns: serving remembers values by it."""
        return None

    # Words, for documentation.

    @property
    @abstractmethod
    def makes(self) -> str:
        """What it makes of its columns, with its settings."""

    @property
    def learned(self) -> str:
        """What it has learned; empty if there is nothing to learn."""
        return ""

    @property
    def looks_back(self) -> str:
        """Which earlier rows a row is told of; empty if none."""
        return ""

    @property
    def column(self) -> str:
        """Its source column, where it has one."""
        return self.feature.column or self.name


def implements(
    settings: type[FeatureBlock],
) -> Callable[[type[Transform[Any]]], type[Transform[Any]]]:
    """Register a class as the transform of some settings."""

    def register(transform: type[Transform[Any]]) -> type[Transform[Any]]:
        _CLASSES[settings] = transform
        return transform

    return register


def class_of(feature: FeatureBlock) -> type[Transform[Any]]:
    """Look up the transform that implements a feature's settings."""
    _discover()
    return _CLASSES[type(feature)]


def transform_of(
    name: str,
    feature: FeatureBlock,
    state: FittedState | None = None,
    context: Context | None = None,
) -> Transform[Any]:
    """Make the transform of a feature; without a state it can learn, and say what it is."""
    return class_of(feature)(name, feature, state or FittedState(), context or Context())


@cache
def _discover() -> None:
    """Import every file of this package: each registers its transforms."""
    from nightbid.features import transforms

    for module in pkgutil.iter_modules(transforms.__path__):
        importlib.import_module(f"{transforms.__name__}.{module.name}")


def one_float(name: str, feature: str, training_only: bool) -> ModelInput:
    """Declare an input that is a number."""
    return ModelInput(name=name, kind="float", feature=feature, training_only=training_only)


def one_id(name: str, size: int, training_only: bool, vocabulary: str | None = None) -> ModelInput:
    """Declare an input that is an id."""
    return ModelInput(
        name=name,
        kind="id",
        feature=name,
        size=size,
        training_only=training_only,
        vocabulary=vocabulary,
    )


def one_list(
    transform: Transform[Any],
    kind: Literal["bag", "sequence"],
    size: int,
    length: int,
    vocabulary: str | None = None,
) -> ModelInput:
    """Declare an input that is a list of ids.

    Args:
        transform: That makes it.
        kind: A bag has weights, and no order; a sequence is oldest first.
        size: Number of ids.
        length: Ids per row.
        vocabulary: The feature whose vocabulary it is.
    """
    return ModelInput(
        name=transform.name,
        kind=kind,
        feature=transform.name,
        size=size,
        length=length,
        training_only=transform.feature.training_only,
        vocabulary=vocabulary,
    )


def matrix_column(matrix: npt.NDArray[np.int32] | Floats32) -> pa.Array:
    """Turn [rows, length] into a column of fixed-size lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])


def bag_columns(
    name: str, matrix: Int32s, given: npt.NDArray[np.float64] | None = None
) -> dict[str, pa.Array]:
    """Make the two columns of a bag: ids, and weights that add up to 1 in each row.

    Args:
        name: The input's.
        matrix: Ids, int32 [rows, length]; 0 is no value.
        given: Weights as logged, [rows, length]; None: equal.
    """
    return {
        name: matrix_column(matrix),
        f"{name}__weight": matrix_column(bag_weights(matrix, given)),
    }


def bag_weights(matrix: Int32s, given: npt.NDArray[np.float64] | None = None) -> Floats32:
    """Scale the weights of a bag to add up to 1 in each row; float32 [rows, length].

    Args:
        matrix: Ids, int32 [rows, length]; 0 is no value.
        given: Weights as logged, [rows, length]; None: equal.
    """
    weight = np.where(matrix > 0, 1.0 if given is None else given, 0.0)
    total = weight.sum(axis=1, keepdims=True)
    found = np.where(total > 0, weight / np.where(total > 0, total, 1.0), 0.0)
    return found.astype(np.float32)
