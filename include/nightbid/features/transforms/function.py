"""Transform that calls a registered Python function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nightbid.column_parsing import Floats, encode, whole
from nightbid.config.features import Function
from nightbid.counts import counted
from nightbid.errors import MissingDataError
from nightbid.features.functions import named_function
from nightbid.features.state import FittedState
from nightbid.features.transforms.hashed import hashed
from nightbid.features.transforms.numbers import SCALES, known_numbers, scale_of, scaled
from nightbid.features.transforms.transform import Transform, implements, one_float, one_id
from nightbid.features.values import RawColumns
from nightbid.number_parsing import numbers
from nightbid.schema import ModelInput

if TYPE_CHECKING:  # Not needed to score a bundle.
    from nightbid.features.statistics import Moments, Statistic


@implements(Function)
class FunctionTransform(Transform[Function]):
    """Result of a function, scaled as a number or hashed."""

    @property
    def _is_hashed(self) -> bool:
        return self.feature.then == "hash"

    def depends_on(self) -> dict[str, Any] | None:
        """The function and its columns; None if the result is hashed."""
        if self._is_hashed:
            return None
        return {"moments": list(self.feature.columns), "function": self.feature.function}

    def statistic(self, raw: RawColumns, rows: pa.Table) -> Statistic:
        """Sum up the function's results."""
        from nightbid.features.statistics import Moments

        return Moments.of(*known_numbers(self._numbers(raw)))

    def fit(self, statistic: Moments) -> FittedState:
        """Return the mean and the inverse of the standard deviation."""
        return FittedState(numbers=scale_of(statistic))

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """The model input: one float, or one id if the result is hashed."""
        only = self.feature.training_only
        if self._is_hashed:
            return (one_id(self.name, self.feature.buckets + 1, only),)
        return (one_float(self.name, self.name, only),)

    def apply(self, raw: RawColumns) -> dict[str, pa.Array]:
        """Compute the model inputs."""
        if self._is_hashed:
            columns = [encode(self._result(raw))]
            return {self.name: pa.array(hashed(columns, self.feature.buckets))}
        values = self._numbers(raw)
        return {self.name: pa.array(scaled(values, np.isnan(values), *self._scale))}

    @property
    def _scale(self) -> tuple[float, float]:
        center, inverse = self.state.numbers or (0.0, 1.0)
        return center, inverse

    def _numbers(self, raw: RawColumns) -> Floats:
        return numbers(self._result(raw))

    def _result(self, raw: RawColumns) -> pa.Array:
        """Call the function; returns [rows].

        Raises:
            MissingDataError: The function did not return one value per row.
        """
        function = named_function(self.feature.function)
        columns = (raw.column(name, self.name) for name in self.feature.columns)
        result = whole(function(*columns))
        if len(result) != len(raw):
            raise MissingDataError(
                f"function {self.feature.function!r} gave {counted(len(result), 'value')} for"
                f" {counted(len(raw), 'row')}",
                where=f"features.{self.name}",
                hint="a feature function returns one value per row, null where there is none",
            )
        return result

    @property
    def makes(self) -> str:
        """Description of the computation."""
        call = f"{self.feature.function}({', '.join(self.feature.columns)})"
        if self._is_hashed:
            return f"{call}, hashed into {counted(self.feature.buckets, 'bucket')}"
        return f"{call}: {SCALES['standard']}"

    @property
    def learned(self) -> str:
        """Fitted center and scale."""
        if self._is_hashed:
            return ""
        center, inverse = self._scale
        return f"mean {center:,.6g}, standard deviation {1 / inverse:,.6g}"
