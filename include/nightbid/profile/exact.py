"""Sums of floats that do not depend on the order of addition.

A float64 is an integer times a power of two, and so is a sum of floats: stored as a Python integer
in units of 2^-1074 (the smallest float64) it is exact, and addition is associative.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

UNIT_EXPONENT = -1074
_LOW_BITS = 26
_FOLDS = 4  # each extracts 35 bits or more; two suffice for most columns
_MAX_ROWS = 1 << 25  # keeps the float64 accumulators of bincount below 2^53, where they are exact


@dataclass(frozen=True)
class ExactSum:
    """A sum in units of 2^-1074."""

    units: int = 0

    @classmethod
    def of(cls, values: npt.NDArray[np.float64], counts: npt.NDArray[np.int64]) -> ExactSum:
        """Sum finite values, each `counts` times."""
        if len(values) == 0:
            return cls()
        if int(counts.sum()) > _MAX_ROWS:
            if len(values) == 1:
                return cls(cls.of(values, np.ones(1, np.int64)).units * int(counts[0]))
            half = len(values) // 2
            return cls.of(values[:half], counts[:half]) + cls.of(values[half:], counts[half:])
        return cls(_units(values, counts))

    def __add__(self, other: ExactSum) -> ExactSum:
        return ExactSum(self.units + other.units)

    @property
    def fraction(self) -> Fraction:
        """Exact value of the sum."""
        return Fraction(self.units, 1 << -UNIT_EXPONENT)

    def __float__(self) -> float:
        try:
            return float(self.fraction)
        except OverflowError:
            return float("inf") if self.units > 0 else float("-inf")

    def to_json(self) -> list[int | str]:
        """Return `[exponent, hexadecimal integer]` in lowest terms: equal sums give equal text."""
        if self.units == 0:
            return [0, "0x0"]
        zeros = (self.units & -self.units).bit_length() - 1
        return [UNIT_EXPONENT + zeros, hex(self.units >> zeros)]

    @classmethod
    def from_json(cls, value: list[int | str]) -> ExactSum:
        """Inverse of `to_json`."""
        exponent, digits = value
        units = int(str(digits), 16)
        return cls(units << (int(exponent) - UNIT_EXPONENT)) if units else cls()


def deviation(total: ExactSum, squares: ExactSum, rows: int) -> float:
    """Population standard deviation.

    Args:
        total: Sum of the values.
        squares: Sum of the squares, each rounded to float64 and limited to its largest number.
        rows: Number of values, above 0.
    """
    mean, mean_square = total.fraction / rows, squares.fraction / rows
    variance = mean_square - mean * mean
    if variance >= 0:
        return math.sqrt(variance)
    # Squares were rounded individually, so the variance of a constant column may be slightly
    # negative. It is far below 0 if squares were limited: the only estimate then is that it is very
    # large.
    return 0.0 if -variance * (1 << 40) < mean_square else math.sqrt(mean_square)


def _units(values: npt.NDArray[np.float64], counts: npt.NDArray[np.int64]) -> int:
    """Sum with error-free extraction (Rump, Ogita, Oishi 2008).

    Adding and subtracting a large power of two rounds each value to a grid so coarse that the
    rounded values add up without error; the remainder of each value is exact and processed next.
    """
    room = int(counts.sum()).bit_length() + 1
    once = room == len(counts).bit_length() + 1 and bool((counts == 1).all())
    units, left = 0, values
    for _ in range(_FOLDS):
        bound = max(float(left.max()), -float(left.min()))
        if bound == 0.0:
            return units
        top = math.frexp(bound)[1] + room
        if top > 1020 or top - 52 < UNIT_EXPONENT:
            break
        anchor = math.ldexp(1.5, top)
        high = (left + anchor) - anchor
        left = left - high
        total = float((high if once else high * counts).sum())
        units += int(math.ldexp(total, 52 - top)) << (top - 52 - UNIT_EXPONENT)
    return units + _units_by_exponent(left, counts)


def _units_by_exponent(values: npt.NDArray[np.float64], counts: npt.NDArray[np.int64]) -> int:
    """Sum the mantissas per exponent, for values of very different magnitudes."""
    mantissas, exponents = np.frexp(values)
    whole = np.ldexp(mantissas, 53).astype(np.int64)
    high = whole >> _LOW_BITS
    low = whole - (high << _LOW_BITS)
    lowest = int(exponents.min())
    shifted = exponents - lowest
    highs = np.bincount(shifted, weights=(high * counts).astype(np.float64))
    lows = np.bincount(shifted, weights=(low * counts).astype(np.float64))
    units = 0
    for offset in np.flatnonzero((highs != 0) | (lows != 0)).tolist():
        part = (int(highs[offset]) << _LOW_BITS) + int(lows[offset])
        # value = part * 2^(exponent - 53); subnormals have trailing zero bits to shift out.
        shift = offset + lowest - 53 - UNIT_EXPONENT
        units += part << shift if shift >= 0 else part >> -shift
    return units
