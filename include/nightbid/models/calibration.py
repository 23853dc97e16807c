"""From a model's logit to the logit of the probability: one formula for every engine and export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]


class Offsets(BaseModel):
    """What the values of one input add to the logit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: str
    """Name of a model input with one id per row."""
    values: tuple[float, ...]
    """[ids of the input]; 0 for values that are not known."""


class Calibration(BaseModel):
    """A line, then a rising curve through knots: straight between them, of slope 1 outside.

    Both rise strictly, so neither changes the order of any two rows. Offsets are added last; they
    move rows of one value against those of another.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    slope: float = 1.0
    intercept: float = 0.0
    knots: tuple[tuple[float, float], ...] = ()
    """(logit after the line, logit of the probability) each, both increasing; none: no curve."""
    offsets: tuple[Offsets, ...] = ()
    """One per column of `train.calibration_slices`."""

    @property
    def curve(self) -> Curve | None:
        """The curve as arrays; None where there is none."""
        return Curve(self.knots) if self.knots else None

    def logits(self, z: Floats) -> Floats:
        """Follow the line and the curve; float64 [rows] both. Offsets are `shift`'s."""
        line = z * self.slope + self.intercept
        return line if self.curve is None else self.curve(line)

    def shift(self, ids: Ints, places: Mapping[str, slice]) -> Floats:
        """Add up the offsets of each row; float64 [rows].

        Args:
            ids: [rows, places], as in `nightbid.models.layout.Packed`.
            places: Input → its columns in `ids`.
        """
        total = np.zeros(len(ids))
        for each in self.offsets:
            total += np.asarray(each.values)[ids[:, places[each.input].start]]
        return total

    def after(self, shift: float) -> Calibration:
        """Calibrate logits to which `shift` is added first, the same way."""
        intercept = self.slope * shift + self.intercept
        return self.model_copy(update={"intercept": intercept})


class Curve:
    """y₀ + min(z - x₀, 0) + Σ over pieces of rise · clip(z - x, 0, width) + max(z - x_last, 0).

    A sum of ramps needs no search, so that any graph format can hold it.
    """

    def __init__(self, knots: tuple[tuple[float, float], ...]) -> None:
        x, y = np.asarray(knots, np.float64).T
        self.first, self.last, self.lowest = float(x[0]), float(x[-1]), float(y[0])
        self.starts = x[:-1]
        """[pieces]."""
        self.widths = np.diff(x)
        self.rises = np.diff(y) / self.widths

    def __call__(self, z: Any, xp: Any = np) -> Any:
        """Follow the curve; [rows] to [rows].

        Args:
            z: logits.
            xp: NumPy, or a module with its `minimum`, `maximum`, `expand_dims` and `sum`.
        """
        dtype = z.dtype.as_numpy_dtype if hasattr(z.dtype, "as_numpy_dtype") else z.dtype
        starts, widths, rises = (
            each.astype(dtype) for each in (self.starts, self.widths, self.rises)
        )
        inside = xp.minimum(xp.maximum(xp.expand_dims(z, -1) - starts, 0.0), widths)
        ends = xp.minimum(z - self.first, 0.0) + xp.maximum(z - self.last, 0.0)
        return xp.sum(inside * rises, axis=-1) + ends + self.lowest
