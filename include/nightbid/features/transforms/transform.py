"""Base class of transforms: a class implements everything that Nightbid does with a feature.

A class is decorated with the settings that it implements; subclasses may share code::

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

from nightbid.anonymous import NO_USER_COLUMN, UserColumn
from nightbid.config.features import FeatureBlock
from nightbid.features.state import FittedState
from nightbid.features.values import Floats32, Int32s, RawColumns
from nightbid.schema import ModelInput

if TYPE_CHECKING:  # Not needed to score a bundle.
    from nightbid.features.statistics import Statistic
    from nightbid.features.transforms.vocabulary import FittedVocabulary

FeatureSettings = TypeVar("FeatureSettings", bound=FeatureBlock)
Moment = Literal["day", "time"]
_CLASSES: dict[type[FeatureBlock], type[Transform[Any]]] = {}


@dataclass(frozen=True, eq=False)
class FeatureContext:
    """Settings and state of the pipeline that a transform needs besides its own."""

    features: Mapping[str, FeatureBlock] = field(default_factory=dict)
    """Settings of every feature, by name."""
    learned: Mapping[str, FittedState] = field(default_factory=dict)
    """Fitted states of the features, by name."""
    time: str = ""
    """Column with the time of the impression."""
    lag_days: int = 0
    """Days until a label is final."""
    zone: str = "UTC"
    """Time zone of the days."""
    user: UserColumn = NO_USER_COLUMN
    """Column of the user, whose rows without one have no history."""
    vocabularies: dict[str, FittedVocabulary] = field(default_factory=dict)
    """Vocabularies built so far, so that features that share one hold it once."""


@dataclass(frozen=True, eq=False)
class Transform(ABC, Generic[FeatureSettings]):
    """The transform of one feature."""

    name: str
    """Name of the feature."""
    feature: FeatureSettings
    state: FittedState = field(default_factory=FittedState)
    """Fitted state; empty before fitting."""
    context: FeatureContext = field(default_factory=FeatureContext)

    learns_history: ClassVar[bool] = False
    """Whether it learns from rows of every split; a row then uses earlier rows only."""
    cycle_hours: ClassVar[int] = 0
    """Period of its values in hours, by which parts of a day differ; 0: not periodic."""
    drifts: ClassVar[bool] = False
    """Whether its values differ between days by definition.

    Examples are the weekday, and history, which grows through the window. Gates compare such values
    with the champion's window instead."""
    varies_within_a_day: ClassVar[bool] = True
    """Whether rows of one day can have different values."""
    is_log: ClassVar[bool] = False
    """Whether values are logarithms: a difference below 0.1 is negligible."""

    # Learning.

    def depends_on(self) -> dict[str, Any] | None:
        """Settings that the feature's statistic depends on; None if it learns nothing.

        Features with equal results share one statistic. Settings that apply to a finished statistic
        (`min_count`, `top_k`, `strength`, `length`, …) are not included: changing them requires no
        new pass over the rows.
        """
        return None

    def statistic(self, raw: RawColumns, rows: pa.Table) -> Statistic:
        """Compute the statistic of some rows; statistics of parts can be merged.

        Args:
            raw: Rows, with columns encoded once for all features.
            rows: The same rows as a table, with reserved columns.
        """
        raise NotImplementedError(f"{type(self).__name__} learns nothing")

    def fit(self, statistic: Any) -> FittedState:
        """Return the state that applying the transform needs, from a merged statistic."""
        raise NotImplementedError(f"{type(self).__name__} learns nothing")

    @property
    def most_new_ids(self) -> int:
        """Maximum number of ids that fitting adds."""
        return 0

    # Applying, the same in Beam, in training and in serving.

    @property
    @abstractmethod
    def inputs(self) -> tuple[ModelInput, ...]:
        """Model inputs of the feature, in order."""

    @abstractmethod
    def apply(self, raw: RawColumns) -> dict[str, pa.Array]:
        """Compute the model inputs; one column [rows] each, in order."""

    @property
    def vocabulary(self) -> FittedVocabulary | None:
        """Vocabulary of the ids; None if there is none."""
        return None

    @property
    def reads_time(self) -> Moment | None:
        """Part of the row's time that values depend on (serving caches by it); None: none."""
        return None

    # Documentation.

    @property
    @abstractmethod
    def makes(self) -> str:
        """Description of the computation, with its settings."""

    @property
    def learned(self) -> str:
        """Summary of the fitted state; empty if nothing is fitted."""
        return ""

    @property
    def looks_back(self) -> str:
        """Which earlier rows a row uses; empty if none."""
        return ""

    @property
    def column(self) -> str:
        """Source column: the one in the settings, or the feature's name."""
        return self.feature.column or self.name


def implements(
    settings: type[FeatureBlock],
) -> Callable[[type[Transform[Any]]], type[Transform[Any]]]:
    """Register a class as the transform for a type of settings."""

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
    context: FeatureContext | None = None,
) -> Transform[Any]:
    """Create the transform of a feature; without a state it can be fitted and documented."""
    return class_of(feature)(name, feature, state or FittedState(), context or FeatureContext())


@cache
def _discover() -> None:
    """Import every module of this package, which registers its transforms."""
    from nightbid.features import transforms

    for module in pkgutil.iter_modules(transforms.__path__):
        importlib.import_module(f"{transforms.__name__}.{module.name}")


def one_float(name: str, feature: str, training_only: bool) -> ModelInput:
    """Declare a model input that is a number."""
    return ModelInput(name=name, kind="float", feature=feature, training_only=training_only)


def one_id(name: str, size: int, training_only: bool, vocabulary: str | None = None) -> ModelInput:
    """Declare a model input that is an id."""
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
    """Declare a model input that is a list of ids.

    Args:
        transform: Transform that computes the input.
        kind: `bag` (weighted, unordered) or `sequence` (oldest first).
        size: Number of ids.
        length: Ids per row.
        vocabulary: Feature whose vocabulary the ids are from; None: no vocabulary.
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
    """Convert [rows, length] to a column of fixed-size lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])


def bag_columns(
    name: str, matrix: Int32s, logged: npt.NDArray[np.float64] | None = None
) -> dict[str, pa.Array]:
    """Build the two columns of a bag: ids, and weights that sum to 1 in each row.

    Args:
        name: Name of the model input.
        matrix: Ids, int32 [rows, length]; 0: no value.
        logged: Logged weights, [rows, length]; None: equal weights.
    """
    return {
        name: matrix_column(matrix),
        f"{name}__weight": matrix_column(bag_weights(matrix, logged)),
    }


def bag_weights(matrix: Int32s, logged: npt.NDArray[np.float64] | None = None) -> Floats32:
    """Normalize the weights of a bag to a sum of 1 in each row; float32 [rows, length].

    Args:
        matrix: Ids, int32 [rows, length]; 0: no value.
        logged: Logged weights, [rows, length]; None: equal weights.
    """
    weight = np.where(matrix > 0, 1.0 if logged is None else logged, 0.0)
    total = weight.sum(axis=1, keepdims=True)
    normalized = np.where(total > 0, weight / np.where(total > 0, total, 1.0), 0.0)
    return normalized.astype(np.float32)
