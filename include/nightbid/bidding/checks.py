"""Input checks shared by this package; each error is one line that states the first bad value."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nightbid.counts import are, counted
from nightbid.errors import DataError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def at_least_zero(name: str, values: Any, *, where: str = "") -> Floats:
    """Return `values` as float64.

    Raises:
        DataError: Some values are missing, infinite or negative.
    """
    array = np.asarray(values, np.float64)
    _refuse(name, array, ~(np.isfinite(array) & (array >= 0)), "finite and at least 0", where)
    return array


def probabilities(name: str, values: Any, *, where: str = "") -> Floats:
    """Return `values` as float64.

    Raises:
        DataError: Some values are missing or outside 0..1.
    """
    array = np.asarray(values, np.float64)
    _refuse(name, array, ~((array >= 0) & (array <= 1)), "within 0..1", where)
    return array


def _refuse(name: str, array: Floats, bad: Bools, rule: str, where: str) -> None:
    count = int(bad.sum())
    if count:
        first = int(np.argmax(bad.reshape(-1)))
        value = array.reshape(-1)[first]
        raise DataError(
            f"{count:,} of {counted(array.size, 'value')} of {name} {are(count)} not {rule},"
            f" the first in row {first}: {value:g}",
            where=where,
            hint=f"drop those rows, or correct {name}",
        )
