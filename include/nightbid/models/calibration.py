"""From a model's logit to the calibrated logit, with one formula for every engine and export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

Floats = npt.NDArray[np.float64]
Int32s = npt.NDArray[np.int32]


class Offsets(BaseModel):
    """Logit offsets of the values of one input."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: str
    """Name of a model input with one id per row."""
    values: tuple[float, ...]
    """[ids of the input]; 0 for unknown values."""


class Calibration(BaseModel):
    """A line, then an increasing curve through knots: linear between knots, with slope 1 outside.

    Both are strictly increasing, so neither changes the order of any two rows. Offsets are added
    last; they change the order between rows with different values of an input.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    slope: float = 1.0
    intercept: float = 0.0
    knots: tuple[tuple[float, float], ...] = ()
    """Pairs (logit after the line, calibrated logit), both increasing; empty means no curve."""
    offsets: tuple[Offsets, ...] = ()
    """One entry per input of `train.calibration_slices`."""

    @property
    def curve(self) -> Curve | None:
        """The curve as arrays; None if there are no knots."""
        return Curve(self.knots) if self.knots else None

    def logits(self, z: Floats) -> Floats:
        """Apply the line and the curve, without offsets (see `shift`); float64 [rows] to [rows]."""
        line = z * self.slope + self.intercept
        return line if self.curve is None else self.curve(line)

    def shift(self, ids: Int32s, places: Mapping[str, slice]) -> Floats:
        """Sum the offsets of each row; float64 [rows].

        Args:
            ids: [rows, places], see `nightbid.models.layout.Packed`.
            places: Input → its columns in `ids`.
        """
        total = np.zeros(len(ids))
        for offsets in self.offsets:
            total += np.asarray(offsets.values)[ids[:, places[offsets.input].start]]
        return total

    def after(self, shift: float) -> Calibration:
        """Return a calibration that adds `shift` to its logits first and then applies this one."""
        intercept = self.slope * shift + self.intercept
        return self.model_copy(update={"intercept": intercept})


class Curve:
    """y₀ + min(z - x₀, 0) + Σ over pieces of rise · clip(z - x, 0, width) + max(z - x_last, 0).

    A sum of ramps needs no search for the piece, so it can be expressed in any graph format.
    """

    def __init__(self, knots: tuple[tuple[float, float], ...]) -> None:
        x, y = np.asarray(knots, np.float64).T
        self.first, self.last, self.lowest = float(x[0]), float(x[-1]), float(y[0])
        self.starts = x[:-1]
        """[pieces] logit at which each piece starts."""
        self.widths = np.diff(x)
        self.rises = np.diff(y) / self.widths

    def __call__(self, z: Any, xp: Any = np) -> Any:
        """Evaluate the curve; [rows] to [rows].

        Args:
            z: Logits, [rows].
            xp: NumPy, or a module with its `minimum`, `maximum`, `expand_dims` and `sum`.
        """
        dtype = z.dtype.as_numpy_dtype if hasattr(z.dtype, "as_numpy_dtype") else z.dtype
        starts, widths, rises = (
            values.astype(dtype) for values in (self.starts, self.widths, self.rises)
        )
        inside = xp.minimum(xp.maximum(xp.expand_dims(z, -1) - starts, 0.0), widths)
        ends = xp.minimum(z - self.first, 0.0) + xp.maximum(z - self.last, 0.0)
        return xp.sum(inside * rises, axis=-1) + ends + self.lowest
